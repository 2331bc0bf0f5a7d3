"""Weights of matrix products whose scale varies along the axis that the product sums over."""

from __future__ import annotations

import onnx_ir as ir

from nncf_ext.export.constants import add_constant
from nncf_ext.export.weights import quantized_constant, varies, weight_name


def float_where_scales_are_summed_over(graph: ir.Graph) -> None:
    """Make such weights float: no integer kernel can take a factor out of the middle of its sum.

    ONNX Runtime would put the codes into an integer product all the same, and refuse it when it runs.
    """
    for node in list(graph):
        if node.domain != "" or node.op_type not in ("Gemm", "MatMul"):
            continue
        for index, axis in enumerate(_summed_axes(node)):
            value = node.inputs[index]
            weight = quantized_constant(value)
            if value is not None and weight is not None and weight.step.ndim >= 2 and varies(weight.step, axis):
                node.replace_input_with(index, add_constant(graph, f"{weight_name(value)}_float", weight.values))


def _summed_axes(node: ir.Node) -> tuple[int, int]:
    """The axes of the two factors over which the product sums."""
    if node.op_type == "MatMul":
        return -1, -2
    return (0 if node.attributes.get_int("transA", 0) else 1), (1 if node.attributes.get_int("transB", 0) else 0)
