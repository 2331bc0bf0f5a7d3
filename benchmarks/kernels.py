"""What one fake quantization costs on CPU, forward and backward with learned ranges: `python -m benchmarks.kernels`.

CPU time of one thread, the candidates taking turns, medians; large tensors in units of one `torch.clone` of the same
tensor, small ones in microseconds (they show what a call costs).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from nncf_ext_torch import kernels, native
from torch import Tensor

from benchmarks.measure import keep_freed_memory

ROUNDS = 15
INTERVALS = 255
Quantizer = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    return kernels.fake_quantize(x, low, step, INTERVALS)


def ours_aten(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    return kernels._Aten.apply(x, low, step, INTERVALS)


@functools.cache
def zero_points(channels: int, dtype: torch.dtype) -> Tensor:
    return torch.full((channels,), 128, dtype=dtype)


def torch_fixed(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    step, zero = step.detach().flatten(), zero_points(step.numel(), torch.int32)
    if len(step) == 1:
        return torch.fake_quantize_per_tensor_affine(x, step, zero, 0, INTERVALS)
    return torch.fake_quantize_per_channel_affine(x, step, zero, 0, 0, INTERVALS)


def torch_learned(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    step, zero = step.flatten(), zero_points(step.numel(), torch.float32)
    if len(step) == 1:
        return torch._fake_quantize_learnable_per_tensor_affine(x, step, zero, 0, INTERVALS, 1.0)
    return torch._fake_quantize_learnable_per_channel_affine(x, step, zero, 0, 0, INTERVALS, 1.0)


CANDIDATES: dict[str, Quantizer] = {
    "nncf_ext": ours,
    "nncf_ext, ATen form": ours_aten,
    "torch.fake_quantize_* (fixed ranges)": torch_fixed,
    "torch._fake_quantize_learnable_*": torch_learned,
}

CASES = {  # shape, shape of the grid, whether x is a weight (a leaf)
    "weight, per channel": ((512, 512, 3, 3), (512, 1, 1, 1), True),
    "activation, per tensor": ((8, 32, 96, 96), (1, 1, 1, 1), False),
    "small weight, per channel": ((64, 64, 3, 3), (64, 1, 1, 1), True),
    "small activation, per tensor": ((1, 64, 24, 24), (1, 1, 1, 1), False),
}


def timed(function: Callable[[], Tensor], repeats: int) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def measure(quantize: Quantizer, x: Tensor, low: Tensor, step: Tensor, weight: bool, repeats: int) -> tuple[float, float]:
    """CPU seconds forward and backward."""
    g = torch.randn_like(x)
    x.requires_grad_()
    source = x if weight else x.view_as(x)
    forward = timed(lambda: quantize(source, low, step), repeats)
    y = quantize(source, low, step)
    inputs = [t for t in (x, low, step) if t.requires_grad]
    backward = timed(lambda: torch.autograd.grad(y, inputs, g, retain_graph=True, allow_unused=True)[0], repeats)
    return forward, backward


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds: shows that all runs, not how fast")
    rounds = 2 if parser.parse_args().quick else ROUNDS
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, compiled kernel: {'yes' if native.library() else 'no'}")
    for case, (shape, of_grid, weight) in CASES.items():
        torch.manual_seed(0)
        x = torch.randn(shape)
        step = torch.full(of_grid, 0.02, requires_grad=True)
        low = torch.full(of_grid, -128 * 0.02, requires_grad=True)
        large = x.numel() > 1 << 20
        repeats = 1 if large else 50
        clones, times = [], {name: [] for name in CANDIDATES}
        for _ in range(rounds):
            clones.append(timed(x.detach().clone, repeats))
            for name, quantize in CANDIDATES.items():
                times[name].append(measure(quantize, x, low, step, weight, repeats))
        clone = statistics.median(clones)
        unit, scale = ("x clone", clone) if large else ("us", 1e-6)
        print(f"\n{case} {tuple(shape)}: clone {clone * 1e6:.0f} us\n{'':40}{'forward':>10}{'backward':>10}  [{unit}]")
        for name, pairs in times.items():
            forward, backward = (statistics.median(column) / scale for column in zip(*pairs, strict=True))
            print(f"{name:40}{forward:10.2f}{backward:10.2f}")


if __name__ == "__main__":
    main()
