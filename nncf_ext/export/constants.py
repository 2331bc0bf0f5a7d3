"""Constants of an ONNX graph: reading, adding and evaluating them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

_KEPT = ("QuantizeLinear", "DequantizeLinear", "ConstantOfShape", "Expand")
_GROWTH = 1 << 16  # elements that folding may add: a constant that is cheap to compute is not worth storing


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, None for a tensor that is computed."""
    if value is None or value.const_value is None or value.is_graph_input() or not value.is_initializer():
        return None
    return value.const_value.numpy()


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer; a number is appended to `name` where it is taken."""
    unique, number = name, 0
    while unique in graph.initializers:
        number += 1
        unique = f"{name}_{number}"
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
    value = ir.val(unique, const_value=tensor)
    graph.register_initializer(value)
    return value


def evaluate(node: ir.Node, inputs: Sequence[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """The node's outputs for these inputs, by ONNX Runtime: ONNX's own reference has mistakes (GatherElements)."""
    import onnx
    import onnxruntime as ort

    feeds = {
        str(value.name): array
        for value, array in zip(node.inputs, inputs, strict=True)
        if value is not None and array is not None
    }
    known = [
        onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for k, a in feeds.items()
    ]
    wanted = [onnx.helper.make_empty_tensor_value_info(str(value.name)) for value in node.outputs]
    body = onnx.helper.make_graph([ir.to_proto(node)], "node", known, wanted)
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    runner = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in runner.run(None, feeds)]


def fold_constants(graph: ir.Graph) -> None:
    """Compute every node whose inputs are all constant (masked weights, shapes). Quantizers stay."""
    opset = graph.opset_imports[""]
    for node in list(graph):
        arrays = [constant(value) for value in node.inputs]
        known = all(array is not None or value is None for array, value in zip(arrays, node.inputs, strict=True))
        if not known or not node.inputs or not _is_plain(node) or any(value.is_graph_output() for value in node.outputs):
            continue
        results = evaluate(node, arrays, opset)
        if sum(r.size for r in results) > sum(a.size for a in arrays if a is not None) + _GROWTH:
            continue
        for output, result in zip(node.outputs, results, strict=True):
            output.replace_all_uses_with(add_constant(graph, f"{output.name}_folded", result))
        graph.remove(node, safe=True)


def _is_plain(node: ir.Node) -> bool:
    has_body = any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values())
    return node.domain == "" and node.op_type not in _KEPT and not node.op_type.startswith("Random") and not has_body
