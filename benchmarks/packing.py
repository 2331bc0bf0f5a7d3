"""How short, and how fast, packed files are: `python -m benchmarks.packing`, from the repository's root.

Weights of ResNet-50's shapes as they come out of compression, in safetensors files: packed, beside `zstd -19` and `xz -9` of the
same file, and the ONNX file with these weights as int8 where they fit it. One thread, CPU time. Then files of up to a billion
weights, for what packing takes as they grow (4 GB of disk).
"""

from __future__ import annotations

import argparse
import json
import lzma
import struct
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
MILLIONS = (67, 268, 1007)  # weights of the growing files
_SIDE = 4096  # of their matrices


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


def int8_onnx_bytes(arrays: dict[str, Any]) -> int:
    """Of an ONNX file with these weights as int8 behind DequantizeLinear, a scale for each; what is int8 already has its own."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, outputs = [], [], []
    for name, array in arrays.items():
        if name.endswith(".scale"):
            continue
        scale = arrays.get(f"{name}.scale", np.float32(max(np.abs(array).max(), 1e-9) / 127))
        codes = array if array.dtype == np.int8 else np.round(array / scale).astype(np.int8)
        initializers += [
            numpy_helper.from_array(codes, name),
            numpy_helper.from_array(np.asarray(scale).ravel(), f"{name}_scale"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [f"{name}_float"], axis=0))
        outputs.append(helper.make_tensor_value_info(f"{name}_float", TensorProto.FLOAT, array.shape))
    graph = helper.make_graph(nodes, "weights", [], outputs, initializers)
    return len(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]).SerializeToString())


def measure(kind: str, share: float) -> dict[str, Any]:
    import zstandard
    from safetensors.numpy import save_file

    from nncf_ext import packed

    with TemporaryDirectory() as name:
        folder = Path(name)
        arrays = weights(kind, share)
        elements = sum(a.size for a in arrays.values())
        onnx_bytes = None if kind in ("float32", "pruned") else int8_onnx_bytes(arrays)
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
            "onnx": onnx_bytes,
            "packed": (folder / "m.ncp").stat().st_size,
            "bound": sum(file.bound_bytes(tensor) for tensor in file),
            "zstd": len(zstandard.ZstdCompressor(level=19).compress(content)),
            "xz": len(lzma.compress(content, preset=9)),
            "encoding": encoding,
            "decoding": decoding,
            "peak": peak,
        }


def grow(millions: int) -> dict[str, float]:
    """CPU seconds and memory for packing and unpacking so many weights, in matrices of 16.8 million."""
    import numpy as np

    from nncf_ext import packed

    count = max(round(millions * 1e6 / _SIDE**2), 1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        size = 4 * _SIDE**2
        entry = {"dtype": "F32", "shape": [_SIDE, _SIDE]}
        header = {f"layer{i}": {**entry, "data_offsets": [i * size, (i + 1) * size]} for i in range(count)}
        text = json.dumps(header).encode()
        rng = np.random.default_rng(0)
        with (folder / "m.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _ in range(count):
                w = rng.standard_normal((_SIDE, _SIDE), np.float32)
                w = np.round(w * 4) / 4 * (np.abs(w) > 1.65)  # a tenth of them, few values
                file.write(w.astype(np.float32).tobytes())
        del w
        tracemalloc.start()
        start = time.process_time()
        packed.pack_file(folder / "m.safetensors", folder / "m.ncp")
        packing = time.process_time() - start
        (folder / "m.safetensors").unlink()
        start = time.process_time()
        packed.unpack_file(folder / "m.ncp", folder / "again.safetensors")
        unpacking = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        return {
            "weights": count * _SIDE**2,
            "packed": (folder / "m.ncp").stat().st_size,
            "packing": packing,
            "unpacking": unpacking,
            "peak": peak,
        }


def growing_row(result: Result) -> list[str]:
    millions = result["weights"] / 1e6
    return [
        f"{millions:.0f}",
        f"{4 * millions:.0f}",
        f"{result['packed'] / 1e6:.1f}",
        *(f"{100 * result[key] / millions:.2f}" for key in ("packing", "unpacking")),
        f"{result['peak'] / 1e6:.0f}",
    ]


def row(kind: str, result: Result) -> list[str]:
    if "error" in result:
        return [KINDS[kind], result["error"], *[""] * 9]
    decoded = 4 * result["elements"] / 1e6  # megabytes of float32
    shortest = min(result["zstd"], result["xz"], result["onnx"] or result["xz"])
    return [
        KINDS[kind],
        *("" if result[key] is None else f"{result[key] / 1e6:.2f}" for key in ("bytes", "zstd", "xz", "onnx", "packed")),
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
    arguments.add_argument("--grow", type=int, metavar="MILLIONS", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.grow:
        report_result(lambda: grow(options.grow))
        return
    if options.worker:
        kind, share = options.worker
        report_result(lambda: measure(kind, float(share)))
        return
    share = "0.3" if options.quick else "1"
    results = {kind: run_worker("", "benchmarks.packing", "--worker", kind, share) for kind in KINDS}
    header = ["weights of ResNet-50", "MB", "zstd -19", "xz -9", "ONNX int8", "packed", "over the bound", "shortest"]
    header += ["packing, MB/s", "reading, MB/s", "memory, of the file"]
    text = show("Packed files (MB/s of float32)", header, [row(kind, result) for kind, result in results.items()])
    growing = [run_worker("", "benchmarks.packing", "--grow", str(n)) for n in (MILLIONS[:1] if options.quick else MILLIONS)]
    header = ["million weights", "MB of float32", "MB packed", "packing, s for 100 million", "unpacking, s for 100 million"]
    rows = [growing_row(result) for result in growing if "error" not in result]
    more = show("Growing files (90 % zeros, few values; in matrices of 67 MB)", [*header, "memory, MB"], rows)
    if not options.quick:
        write_section("packing", f"{machine()}; one thread.\n\n{text}\n\n{more}")
    if any("error" in result for result in (*results.values(), *growing)):
        sys.exit(1)


if __name__ == "__main__":
    main()
