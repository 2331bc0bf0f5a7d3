"""One contestant on one model, in a process of its own: what its training step costs over that of the same model in float32.

`qat_step.py` runs this file, with the Python of the contestant's own environment. The last line it prints is the result, as JSON.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import statistics
import warnings
from dataclasses import asdict
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn

from benchmarks.contest import report_result
from benchmarks.measure import interleaved, keep_freed_memory, paired_ratio
from benchmarks.models_torch import bert, mobilenet_v2, resnet18

BATCH, PIXELS, TOKENS, VOCABULARY = 8, 96, 64, 1000


def build(name: str, batch_size: int = BATCH) -> tuple[nn.Module, Tensor]:
    """A model in training mode and a batch for it.

    The BatchNorm statistics are the batch's. Peers calibrate in inference mode: with statistics that do not fit yet, ranges
    would be wrong, and the gradients of a MobileNetV2 quantized by ModelOpt grow beyond float32 within three steps.
    """
    if name == "bert":
        return bert(vocabulary=VOCABULARY).train(), torch.randint(0, VOCABULARY, (batch_size, TOKENS))
    model = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}[name]().train()
    images = torch.randn(batch_size, 3, PIXELS, PIXELS)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.momentum = 0.1
    return model, images


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    outputs = model(batch)
    logits = getattr(outputs, "logits", outputs)
    return nn.functional.cross_entropy(logits, torch.arange(len(batch)) % logits.shape[-1])


class Step:
    """Forward, loss, backward and an SGD step, which moves the learned scales too, where there are any."""

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        loss_of(self.model, self.batch).backward()
        self.optimizer.step()


def saved_bytes(model: nn.Module, batch: Tensor) -> int:
    """Bytes that a forward pass allocates and that are still held when it is over: what the backward pass needs."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        loss = loss_of(model, batch)
    del loss  # not before
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def compare(peer: str, model: str, rounds: int, compiled: bool) -> dict[str, Any]:
    float_model, batch = build(model)
    quantized, quantizers = importlib.import_module(f"benchmarks.peers.{peer}").quantize(copy.deepcopy(float_model), batch)
    saved = saved_bytes(quantized, batch) / saved_bytes(float_model, batch)
    if compiled:
        quantized, float_model = (torch.compile(module, fullgraph=True) for module in (quantized, float_model))
    steps = {"quantized": Step(quantized, batch), "float": Step(float_model, batch)}
    times = interleaved(steps, rounds, warmup=3)
    if not torch.isfinite(loss_of(quantized, batch)):
        raise ArithmeticError("the loss became infinite or NaN")
    ratio = paired_ratio(times["quantized"], times["float"])
    float_seconds = statistics.median(times["float"])
    return {"ratio": asdict(ratio), "saved": saved, "quantizers": quantizers, "float_seconds": float_seconds}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("peer")
    arguments.add_argument("model")
    arguments.add_argument("--rounds", type=int, required=True)
    arguments.add_argument("--compile", action="store_true")
    arguments.add_argument("--default-allocator", action="store_true", help="do not keep freed memory")
    options = arguments.parse_args()
    if not options.default_allocator:
        keep_freed_memory()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report_result(lambda: compare(options.peer, options.model, options.rounds, options.compile))


if __name__ == "__main__":
    main()
