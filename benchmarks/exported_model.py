"""One exported model, in a process of its own: its latency beside the float file's and that of ONNX Runtime's own quantization.

`export_latency.py` runs this file. The last line it prints is the result.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.contest import Result, report_result
from benchmarks.measure import interleaved, paired_ratio
from nncf_ext import NNCFConfig
from nncf_ext.export import integer_operators
from nncf_ext.export.parity import run, session

BATCH, PIXELS, TOKENS, VOCABULARY = 4, 96, 64, 1000
INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger")
FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
COMPRESSION = {
    "algorithm": "quantization",
    "initializer": {"range": {"num_init_samples": 32}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 32}},
}

FILES = {"int8": [COMPRESSION]}  # name of a file -> what its model is compressed with

Data = Sequence[Mapping[str, np.ndarray] | np.ndarray]  # batches: the one input, or several by name


def images(*shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(8, *shape)).astype(np.float32) for _ in range(4)]


def export_torch(name: str, folder: Path, files: Mapping[str, list[Any]] = FILES) -> Data:
    """Write float.onnx and the compressed `files`; returns the calibration data."""
    import copy

    import torch
    from nncf_ext_torch import create_compressed_model, register_default_init_args

    from benchmarks import models_torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = getattr(models_torch, name)()
    if name == "bert":
        keys = ("input_ids", "attention_mask")
        info: Any = [{"sample_size": [2, TOKENS], "type": "long", "filler": "ones", "keyword": key} for key in keys]
        ids = [torch.randint(0, VOCABULARY, (8, TOKENS)) for _ in range(4)]
        batches: list[Any] = [{"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids]
        data: list[Any] = [{key: value.numpy() for key, value in batch.items()} for batch in batches]
    else:
        info, data = {"sample_size": [2, 3, PIXELS, PIXELS]}, images(3, PIXELS, PIXELS)
        batches = [torch.from_numpy(batch) for batch in data]
        with torch.no_grad():  # statistics of data it has seen, as a trained network has them
            for batch in batches * 5:
                model.train()(batch)
    model.eval()
    plain, _ = create_compressed_model(model, NNCFConfig.from_dict({"input_info": info}))
    plain.export_model(folder / "float.onnx")
    model = plain.strip(do_copy=False, quantizers=False)
    loader = [(batch, torch.zeros(8)) for batch in batches]
    for file, compression in files.items():
        config = NNCFConfig.from_dict({"input_info": info, "compression": compression})
        ctrl, _ = create_compressed_model(copy.deepcopy(model), register_default_init_args(config, loader))
        ctrl.export_model(folder / f"{file}.onnx")
    return data


def export_keras(folder: Path, files: Mapping[str, list[Any]] = FILES) -> Data:
    """Write float.onnx and the compressed `files`; returns the calibration data."""
    import keras
    import tensorflow as tf
    from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

    tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((PIXELS, PIXELS, 3), weights=None)
    info, data = {"sample_size": [2, PIXELS, PIXELS, 3]}, images(PIXELS, PIXELS, 3)
    for batch in data * 5:
        model(batch, training=True)
    plain, _ = create_compressed_model(model, NNCFConfig.from_dict({"input_info": info}))
    plain.export_model(folder / "float.onnx")
    model = plain.strip(do_copy=False, quantizers=False)
    for file, compression in files.items():
        whole = keras.models.clone_model(model)
        whole.set_weights(model.get_weights())
        config = NNCFConfig.from_dict({"input_info": info, "compression": compression})
        ctrl, _ = create_compressed_model(whole, register_default_init_args(config, [(b, np.zeros(8)) for b in data], 8))
        ctrl.export_model(folder / f"{file}.onnx")
    return list(data)


def quantize_static(folder: Path, data: Data) -> None:
    """static.onnx: what ONNX Runtime's own tool makes of float.onnx."""
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):
        def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
            self._batches = batches

        def get_next(self) -> Any:
            return next(self._batches, None)

    names = [value.name for value in session(folder / "float.onnx").get_inputs()]
    named = (batch if isinstance(batch, Mapping) else {names[0]: batch} for batch in data)
    ort.quantize_static(
        folder / "float.onnx",
        folder / "static.onnx",
        Reader(iter(named)),
        quant_format=ort.QuantFormat.QDQ,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
        per_channel=True,
    )


def openvino_model(path: Path) -> Any:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", settings)


def openvino_operators(compiled: Any) -> Counter[str]:
    """Convolutions and matrix products that OpenVINO runs, by precision."""
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(str(info["layerType"].value), str(info["runtimePrecision"].value)) for info in infos]
    return Counter(precision for kind, precision in kinds if kind in ("Convolution", "FullyConnected"))


def measure(name: str, rounds: int) -> Result:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = export_keras(folder) if name == "keras_mobilenet_v2" else export_torch(name, folder)
        quantize_static(folder, data)
        first = data[0]
        inputs = [np.ascontiguousarray(array[:BATCH]) for array in (first.values() if isinstance(first, Mapping) else [first])]
        runners = {kind: session(folder / f"{kind}.onnx") for kind in ("float", "static", "int8")}
        times = interleaved({kind: lambda r=runner: run(r, inputs) for kind, runner in runners.items()}, rounds, warmup=3)
        operators = {kind: integer_operators(folder / f"{kind}.onnx") for kind in ("int8", "static")}
        result: dict[str, Any] = {
            "over_float": asdict(paired_ratio(times["int8"], times["float"])),
            "over_static": asdict(paired_ratio(times["int8"], times["static"])),
            "static_over_float": asdict(paired_ratio(times["static"], times["float"])),
            "integer": {kind: {op: found[op] for op in INTEGER if found[op]} for kind, found in operators.items()},
            "float": {kind: {op: found[op] for op in FLOAT if found[op]} for kind, found in operators.items()},
            "bytes": {kind: (folder / f"{kind}.onnx").stat().st_size for kind in runners},
        }
        if importlib.util.find_spec("openvino") is not None:
            compiled = {kind: openvino_model(folder / f"{kind}.onnx") for kind in ("float", "int8")}
            ov = interleaved({kind: lambda c=c: c(inputs) for kind, c in compiled.items()}, rounds, warmup=3)
            result["openvino"] = asdict(paired_ratio(ov["int8"], ov["float"]))
            result["openvino_operators"] = dict(openvino_operators(compiled["int8"]))
        return result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model")
    arguments.add_argument("--rounds", type=int, required=True)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    report_result(lambda: measure(options.model, options.rounds))


if __name__ == "__main__":
    main()
