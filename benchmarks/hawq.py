"""How long HAWQ takes to choose bits: `python -m benchmarks.hawq`, from the repository's root.

ResNet-18 (random weights, after a few steps so that BatchNorm's statistics are those of the data) on 224 x 224 images with the
config's defaults: 100 samples, at most 200 directions, tolerance 1e-4, bits 2, 4 and 8. Wall time, on all cores.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.adapter import TorchAdapter
from torch import nn

from benchmarks.contest import machine, show, write_section
from benchmarks.models_torch import resnet18
from nncf_ext import NNCFConfig

CLASSES = 100
MOST_SECONDS = 120


def data(samples: int, batch: int, pixels: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Noise with a pattern for each class, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(CLASSES, 3, 7, 7, generator=generator)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    images = nn.functional.interpolate(patterns[labels], size=(pixels, pixels)) + torch.randn(
        samples, 3, pixels, pixels, generator=generator
    )
    return list(zip(images.split(batch), labels.split(batch), strict=True))


def trained(batches: list[tuple[torch.Tensor, torch.Tensor]], steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = resnet18(CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for step in range(steps):
        images, labels = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


@contextmanager
def counting(calls: list[int]) -> Iterator[None]:
    """Samples of each product with the Hessian."""
    original = TorchAdapter.hessian_products

    def counted(self: Any, *arguments: Any) -> Any:
        products = original(self, *arguments)

        def call(batch: Any, directions: Any) -> Any:
            calls.append(self.batch_size(batch[0]))
            return products(batch, directions)

        return call

    TorchAdapter.hessian_products = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        TorchAdapter.hessian_products = original  # type: ignore[method-assign]


def measure(pixels: int, steps: int, **settings: Any) -> list[str]:
    batches = data(100, 10, pixels)
    model = trained(batches, steps)
    precision = {"type": "hawq", **settings}
    initializer = {
        "precision": precision,
        "range": {"num_init_samples": 0},
        "batchnorm_adaptation": {"num_bn_adaptation_samples": 0},
    }
    config = NNCFConfig.from_dict(
        {
            "input_info": {"sample_size": [1, 3, pixels, pixels]},
            "target_device": "TRIAL",
            "compression": {"algorithm": "quantization", "initializer": initializer},
        }
    )
    register_default_init_args(config, batches, criterion=nn.CrossEntropyLoss())
    calls: list[int] = []
    with counting(calls):
        start = time.perf_counter()
        ctrl, _ = create_compressed_model(model, config)
        seconds = time.perf_counter() - start
    bits = [edit.transform.model_dump()["bits"] for edit in ctrl.plan if edit.site.is_parameter]
    verdict = "met" if seconds <= MOST_SECONDS else "missed"
    given = ", ".join(f"{key} {value}" for key, value in settings.items()) or "defaults"
    return [
        given,
        f"{len(calls)}",
        f"{seconds:.0f}",
        f"{seconds / sum(calls):.2f}",
        verdict,
        " ".join(map(str, bits)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images and few directions: does it run?")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    header = ["settings", "directions", "seconds", "seconds per sample", f"<= {MOST_SECONDS} s", "bits of the weights"]
    runs: list[dict[str, Any]] = [{"iter_number": 3}] if options.quick else [{}, {"iter_number": 100}]
    rows = [measure(64, 2, **run) if options.quick else measure(224, 20, **run) for run in runs]
    text = show("HAWQ on ResNet-18, 224 x 224", header, rows)
    if not options.quick:
        write_section("hawq", f"{machine()}\n\n{text}")


if __name__ == "__main__":
    main()
