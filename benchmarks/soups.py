"""The price of a soup: time and memory to average ten checkpoints, `make bench` writes it into docs/benchmarks.md.

A model of ResNet-18's size and layers, from files to a file; beside it the usual way, which loads all models first.

    python -m benchmarks.soups [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.contest import machine, show, write_section
from nncf_ext.checkpoint import save_tensors
from nncf_ext.soup import uniform

MODELS, MOST = 10, 2.2  # and the memory that is allowed, in models
# (kernels, filters, channels) of ResNet-18's convolutions, and its classifier
LAYERS = (
    [(64, 3, 7)]
    + [(64, 64, 3)] * 4
    + [(128, 64, 3)]
    + [(128, 128, 3)] * 3
    + [(256, 128, 3)]
    + [(256, 256, 3)] * 3
    + [(512, 256, 3)]
    + [(512, 512, 3)] * 3
    + [(1000, 512, 1)]
)


def write_models(folder: Path, shrink: int) -> tuple[list[Path], int]:
    """(files, bytes of one model). shrink: divides the numbers of channels."""
    paths, size = [folder / f"{number}.safetensors" for number in range(MODELS)], 0
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        shapes = [(max(outputs // shrink, 1), max(inputs // shrink, 1), kernel, kernel) for outputs, inputs, kernel in LAYERS]
        tensors = {f"layer{i}.weight": rng.standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}
        size = sum(tensor.nbytes for tensor in tensors.values())
        save_tensors(path, tensors)
    return paths, size


def streamed(paths: Sequence[Path], output: Path) -> None:
    uniform(paths).save(output)


def all_at_once(paths: Sequence[Path], output: Path) -> None:
    models = [load_file(path) for path in paths]
    save_file({name: np.mean([model[name] for model in models], 0) for name in models[0]}, output)


def measured(way: Callable[[Sequence[Path], Path], None], paths: Sequence[Path], output: Path, rounds: int) -> tuple[float, int]:
    """(best CPU seconds, peak bytes on the heap, measured in a round of its own)."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        way(paths, output)
        times.append(time.process_time() - start)
    tracemalloc.start()
    try:
        way(paths, output)
        return min(times), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a small model, one round; docs/benchmarks.md stays as it is")
    options = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        paths, size = write_models(Path(name), 8 if options.quick else 1)
        for what, way in {"nncf_ext, tensor by tensor": streamed, "all models loaded, numpy.mean": all_at_once}.items():
            seconds, peak = measured(way, paths, Path(name) / "soup.safetensors", 1 if options.quick else 5)
            share = peak / size
            target = f" (<= {MOST}: {'met' if share <= MOST else 'missed'})" if way is streamed else ""
            rows.append([what, f"{seconds:.2f}", f"{share:.2f}{target}"])
    header = ("", "CPU seconds, best of five", "peak memory, times one model")
    table = show(f"A soup of {MODELS} models of {size / 1e6:.1f} MB, from files to a file", header, rows)
    if not options.quick:
        write_section("soups", f"{machine()}; one thread.\n\n{table}")


if __name__ == "__main__":
    main()
