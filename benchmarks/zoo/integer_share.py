"""Which share of a file's products (MACs) ONNX Runtime runs on integers: from the shapes that its profiler saw."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

INTEGER = (
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
    "QGemm",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
INTEGER += ("DynamicQuantizeLSTM", "QAttention", "MatMulNBits", "QLinearConvTranspose")
FLOAT = (
    "Conv",
    "FusedConv",
    "MatMul",
    "Gemm",
    "FusedMatMul",
    "FusedGemm",
    "ConvTranspose",
    "LSTM",
    "GRU",
    "RNN",
    "NhwcFusedConv",
)
FLOAT += ("Attention", "MultiHeadAttention", "Einsum")


def integer_share(path: Path) -> float | None:
    """Between 0 and 1; None where the file has no products. Runs it once, on zeros and ones."""
    products = {True: 0, False: 0}
    for op, macs in _products(path):
        products[op in INTEGER] += macs
    total = sum(products.values())
    return round(products[True] / total, 3) if total else None


def _products(path: Path) -> list[tuple[str, int]]:
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        # layouts for this processor, which come after, pad the channels
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {value.name: _ones(value) for value in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(options.optimized_model_filepath).graph
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights = {node.name: [constants[name] for name in node.input if name in constants] for node in graph.node}
    found = []
    for event in events:
        details = event.get("args", {})
        op = details.get("op_name")
        if not event["name"].endswith("_kernel_time") or op not in INTEGER + FLOAT:
            continue
        inputs, outputs = _shapes(details["input_type_shape"]), _shapes(details["output_type_shape"])
        own = weights.get(event["name"].removesuffix("_kernel_time"), [])
        found.append((op, _macs(op, inputs, outputs, [shape for shape in own if len(shape) >= 2])))
    return found


def _macs(op: str, inputs: list[list[int]], outputs: list[list[int]], weights: list[list[int]]) -> int:
    if "ConvTranspose" in op:
        return math.prod(inputs[0]) * math.prod((weights or inputs[1:])[0][1:])
    if "Conv" in op:
        weight = weights[0] if weights else [shape for shape in inputs[1:] if len(shape) >= 3][0]
        per_output = math.prod(weight[:-1]) if op == "NhwcFusedConv" else math.prod(weight[1:])
        return math.prod(outputs[0]) * per_output
    if op.endswith(("LSTM", "GRU", "RNN")):
        steps = inputs[0][0] * inputs[0][1]
        return steps * sum(math.prod(weight) for weight in weights[:2])
    return math.prod(outputs[0]) * inputs[0][-1]


def _shapes(described: list[dict[str, list[int]]]) -> list[list[int]]:
    return [shape for entry in described for shape in entry.values()]


def _ones(value: Any) -> Any:
    import numpy as np

    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
    shape = [size if isinstance(size, int) and size > 0 else 2 for size in value.shape]
    return np.ones(shape, kinds.get(value.type, np.float32))
