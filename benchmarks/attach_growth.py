"""How the time to attach grows with the layers of a model: the time per layer of a large model over that of a small one.

    python -m benchmarks.attach_growth [--quick]

1.0 is linear. No data: what is measured is tracing, planning and building.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.progress import track

from benchmarks.contest import Result, machine, report_result, run_worker, show, write_section
from nncf_ext import NNCFConfig

INT8 = {
    "algorithm": "quantization",
    "initializer": {"range": {"num_init_samples": 0}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}},
}
PRUNING = {"algorithm": "filter_pruning", "pruning_init": 0.3, "params": {"prune_first_conv": True}}
COMPRESSIONS: dict[str, list[dict[str, Any]]] = {
    "int8": [INT8],
    "magnitude + int8": [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, INT8],
    "pruning + RB + int8 + distillation": [
        PRUNING,
        {"algorithm": "rb_sparsity", "sparsity_init": 0.1},
        INT8,
        {"algorithm": "knowledge_distillation", "type": "softmax"},
    ],
    "movement": [
        {
            "algorithm": "movement_sparsity",
            "params": {"warmup_start_epoch": 1, "warmup_end_epoch": 4, "importance_regularization_factor": 0.1},
        }
    ],
}
ON_LINEAR = ("movement",)
FRAMEWORKS = {"torch": "PyTorch", "keras": "Keras"}
MOST = 1.25


def torch_model(linear: bool, layers: int) -> Any:
    """Blocks of two convolutions with a sum over them, so that the sums join all layers into one group; or linear layers."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
            self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = torch.relu(self.norm1(self.conv1(x)))
            return torch.relu(x + self.norm2(self.conv2(inner)))

    if linear:
        return nn.Sequential(*[part for _ in range(layers) for part in (nn.Linear(16, 16), nn.ReLU())])
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), *[Block() for _ in range(layers // 2 - 1)], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def keras_model(linear: bool, layers: int) -> Any:
    import keras
    from keras import layers as of

    if linear:
        x = inputs = keras.Input((16,))
        for _ in range(layers):
            x = of.ReLU()(of.Dense(16)(x))
        return keras.Model(inputs, x)
    inputs = keras.Input((8, 8, 3))
    x = of.Conv2D(16, 3)(inputs)
    for _ in range(layers // 2 - 1):
        inner = of.ReLU()(of.BatchNormalization()(of.Conv2D(16, 3, padding="same", use_bias=False)(x)))
        inner = of.BatchNormalization()(of.Conv2D(16, 3, padding="same", use_bias=False)(inner))
        x = of.ReLU()(of.Add()([x, inner]))
    return keras.Model(inputs, of.Dense(10)(of.GlobalAveragePooling2D()(x)))


def attach_seconds(framework: str, compression: str, layers: int) -> float:
    """CPU seconds of one `create_compressed_model`."""
    linear = compression in ON_LINEAR
    if framework == "torch":
        from nncf_ext_torch import create_compressed_model

        model, shape = torch_model(linear, layers), [1, 16] if linear else [1, 3, 8, 8]
    else:
        from nncf_ext_tensorflow import create_compressed_model

        model, shape = keras_model(linear, layers), [1, 16] if linear else [1, 8, 8, 3]
    config = NNCFConfig.from_dict({"input_info": {"sample_size": shape}, "compression": COMPRESSIONS[compression]})
    gc.collect()
    start = time.process_time()
    create_compressed_model(model, config)
    return time.process_time() - start


def measure(framework: str, compression: str, small: int, large: int) -> Result:
    if framework == "torch":
        import torch

        torch.set_num_threads(1)
    attach_seconds(framework, compression, 10)  # imports NNCF, and what else a first call does
    return {
        "small": min(attach_seconds(framework, compression, small) for _ in range(3)),
        "large": min(attach_seconds(framework, compression, large) for _ in range(2)),
    }


def row(framework: str, compression: str, result: Result, small: int, large: int) -> list[str]:
    name = f"{FRAMEWORKS[framework]}: {compression}"
    if "error" in result:
        return [name, "fails", "", ""]
    growth = result["large"] / large / (result["small"] / small)
    return [
        name,
        f"{result['small']:.2f}",
        f"{result['large']:.2f}",
        f"{growth:.2f} (<= {MOST}: {'met' if growth <= MOST else 'missed'})",
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="10 and 20 layers: shows that all runs, not how it grows")
    arguments.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        sys.setrecursionlimit(20_000)  # Keras builds a model of many layers by a function that calls itself
        warnings.simplefilter("ignore")
        framework, compression, *sizes = options.worker
        report_result(lambda: measure(framework, compression, *map(int, sizes)))
        return
    small, large = (10, 20) if options.quick else (100, 1000)
    runs = [(framework, compression) for framework in FRAMEWORKS for compression in COMPRESSIONS]
    results = {
        run: run_worker("", "benchmarks.attach_growth", "--worker", *run, str(small), str(large))
        for run in track(runs, "attaching", console=Console(stderr=True))
    }
    header = ("", f"{small} layers, s", f"{large:,} layers, s", "time per layer, times that of the small model")
    rows = [row(*run, result, small, large) for run, result in results.items()]
    table = show("CPU seconds to attach, without data", header, rows)
    failures = [f"{': '.join(run)} fails: {result['error']}" for run, result in results.items() if "error" in result]
    Console(stderr=True).print("\n".join(failures), markup=False, highlight=False)
    if not options.quick:
        write_section("attach_growth", "\n\n".join([f"{machine()}; one thread.", table, *failures]))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
