"""How short, and how fast, packed files are: `python -m benchmarks.packing`, from the repository's root.

Weights of ResNet-50's shapes as they come out of compression, in safetensors files: packed, beside `zstd -19` and `xz -9` of the
same file. One thread, CPU time.
"""

from __future__ import annotations

import argparse
import lzma
import sys
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.contest import Result, machine, report_result, run_worker, show, write_section

KINDS = {
    "float32": "as it is",
    "int8": "int8 per channel, as integers",
    "pruned": "90 % zeros, float32",
    "pruned_int8": "90 % zeros, int8",
    "shared": "90 % zeros, 32 shared values",
}


def weights(kind: str, share: float) -> dict[str, Any]:
    """Gaussian weights in the shapes of ResNet-50's, or of a part of them."""
    import numpy as np
    import transformers

    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    rng = np.random.default_rng(0)
    found = {}
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters() if p.ndim > 1]
    for name, shape in shapes[: max(1, int(share * len(shapes)))]:
        w = rng.normal(size=shape).astype(np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        if kind.startswith(("pruned", "shared")):
            w *= np.abs(w) >= np.quantile(np.abs(w), 0.9)
        if kind.endswith("int8"):
            scale = np.abs(w).reshape(shape[0], -1).max(1).reshape(-1, *[1] * (len(shape) - 1)) / 127
            found[name], found[f"{name}.scale"] = np.round(w / np.maximum(scale, 1e-9)).astype(np.int8), scale
            continue
        if kind == "shared":
            step = np.float32(np.abs(w).max() / 16)
            w = np.round(w / step) * step
        found[name] = w
    return found


def measure(kind: str, share: float) -> dict[str, Any]:
    import zstandard
    from safetensors.numpy import save_file

    from nncf_ext import packed

    with TemporaryDirectory() as name:
        folder = Path(name)
        arrays = weights(kind, share)
        elements = sum(a.size for a in arrays.values())
        save_file(arrays, folder / "m.safetensors")
        del arrays
        tracemalloc.start()
        packed.pack_file(folder / "m.safetensors", folder / "m.ncp")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        start = time.process_time()
        packed.pack_file(folder / "m.safetensors", folder / "m.ncp")
        encoding = time.process_time() - start
        file = packed.Packed(folder / "m.ncp")
        start = time.process_time()
        for tensor in file:
            file[tensor]
        decoding = time.process_time() - start
        content = (folder / "m.safetensors").read_bytes()
        return {
            "elements": elements,
            "bytes": len(content),
            "packed": (folder / "m.ncp").stat().st_size,
            "bound": sum(file.bound_bytes(tensor) for tensor in file),
            "zstd": len(zstandard.ZstdCompressor(level=19).compress(content)),
            "xz": len(lzma.compress(content, preset=9)),
            "encoding": encoding,
            "decoding": decoding,
            "peak": peak,
        }


def row(kind: str, result: Result) -> list[str]:
    if "error" in result:
        return [KINDS[kind], result["error"], *[""] * 8]
    decoded = 4 * result["elements"] / 1e6  # megabytes of float32
    shortest = min(result["zstd"], result["xz"])
    return [
        KINDS[kind],
        *(f"{result[key] / 1e6:.2f}" for key in ("bytes", "zstd", "xz", "packed")),
        f"{result['packed'] / result['bound']:.4f}x",
        "met" if result["packed"] < shortest else "missed",
        f"{decoded / result['encoding']:.0f}",
        f"{decoded / result['decoding']:.0f}",
        f"{result['peak'] / result['bytes']:.2f}x",
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a few layers: shows that all runs")
    arguments.add_argument("--worker", nargs=2, metavar=("KIND", "SHARE"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        kind, share = options.worker
        report_result(lambda: measure(kind, float(share)))
        return
    share = "0.3" if options.quick else "1"
    results = {kind: run_worker("", "benchmarks.packing", "--worker", kind, share) for kind in KINDS}
    header = ["weights of ResNet-50", "MB", "zstd -19", "xz -9", "packed", "over the bound", "shorter than both"]
    header += ["packing, MB/s", "reading, MB/s", "memory, of the file"]
    text = show("Packed files (MB/s of float32)", header, [row(kind, result) for kind, result in results.items()])
    if not options.quick:
        write_section("packing", f"{machine()}; one thread.\n\n{text}")
    if any("error" in result for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
