"""One model, pruned to half its filters and in int8: its exported file beside the int8 file of the whole model.

`pruned_latency.py` runs this file, in a process of its own. The last line it prints is the result.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx
from onnx import shape_inference

from benchmarks.contest import Result, report_result
from benchmarks.exported_model import BATCH, COMPRESSION, Data, export_keras, export_torch
from benchmarks.measure import interleaved, paired_ratio
from nncf_ext.export.parity import run, session

PRUNING = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.5,  # at once: the time does not depend on which filters they are
    "params": {"schedule": "baseline", "pruning_target": 0.5, "prune_first_conv": True, "prune_downsample_convs": True},
}
FILES = {"int8": [COMPRESSION], "pruned": [PRUNING, COMPRESSION]}


def weights_of(path: Path) -> list[tuple[tuple[int, ...], int, int]]:
    """(shape, output channels, floating-point operations for one sample) of each convolution's or product's weight."""
    model = shape_inference.infer_shapes(onnx.load(path))
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    values = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        name = node.input[1]
        while name in made:  # through DequantizeLinear to the stored weight
            name = made[name].input[0]
        shape = stored[name]
        places = values[node.output[0]][2:] if node.op_type == "Conv" else []
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        outputs = shape[0] if node.op_type == "Conv" or transposed else shape[-1]
        found.append((shape, outputs, 2 * int(np.prod(shape)) * int(np.prod(places))))
    return found


def export(name: str, folder: Path) -> Data:
    return export_keras(folder, FILES) if name == "keras_mobilenet_v2" else export_torch(name, folder, FILES)


def measure(name: str, rounds: int) -> Result:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = export(name, folder)
        inputs = [np.ascontiguousarray(np.asarray(data[0])[:BATCH])]
        kinds = ("float", "int8", "pruned")
        runners = {kind: session(folder / f"{kind}.onnx") for kind in kinds}
        times = interleaved({kind: lambda r=runner: run(r, inputs) for kind, runner in runners.items()}, rounds, warmup=3)
        weights = {kind: weights_of(folder / f"{kind}.onnx") for kind in kinds}
        return {
            "over_int8": asdict(paired_ratio(times["pruned"], times["int8"])),
            "over_float": asdict(paired_ratio(times["pruned"], times["float"])),
            "int8_over_float": asdict(paired_ratio(times["int8"], times["float"])),
            "bytes": {kind: (folder / f"{kind}.onnx").stat().st_size for kind in kinds},
            "channels": {kind: sum(channels for _, channels, _ in found) for kind, found in weights.items()},
            "flops": {kind: sum(flops for *_, flops in found) for kind, found in weights.items()},
            "shapes": {kind: [shape for shape, *_ in found] for kind, found in weights.items()},
        }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model")
    arguments.add_argument("--rounds", type=int, required=True)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    report_result(lambda: measure(options.model, options.rounds))


if __name__ == "__main__":
    main()
