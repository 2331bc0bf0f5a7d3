"""Biases of integer operators as int32.

ONNX Runtime fuses a float bias into a float Gemm before it looks for integer patterns; with an int32 bias it finds these.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from nncf_ext.export.activations import dequantizer_of
from nncf_ext.export.constants import add_constant, constant
from nncf_ext.export.fold import channel_axis, per_channel
from nncf_ext.export.rewiring import only_user
from nncf_ext.export.weights import Quantized, dequantize, quantized_constant, weight_name

_LARGEST = 2**30  # of the int32 that a bias may use; the rest is for the sum of up to 33,000 products of 8-bit codes


def integer_biases(graph: ir.Graph) -> None:
    """Biases of Conv, Gemm and MatMul + Add with quantized inputs and weights become int32 behind a DequantizeLinear.

    Its scale is input scale x weight scale (per channel), its zero point 0. A bias beyond that range makes its channel's weights
    coarser.
    """
    for node in list(graph):
        if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        slot = _bias_slot(node)
        weight, axis, input_step = quantized_constant(node.inputs[1]), channel_axis(node), step_of(node.inputs[0])
        if slot is None or weight is None or axis is None or input_step is None:
            continue
        if node.op_type == "Gemm" and (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)) != (
            1.0,
            1.0,
        ):
            continue
        owner, index = slot
        channels = weight.codes.shape[axis]
        bias = per_channel(constant(owner.inputs[index]), -1, channels)
        steps = np.moveaxis(weight.step, axis, 0).reshape(channels, -1)
        if bias is None or np.any(steps != steps[:, :1]):
            continue
        name = weight_name(node.inputs[1])  # type: ignore[arg-type]
        needed = (np.abs(bias) / _LARGEST / input_step * (1 + 1e-6)).astype(np.float32)
        if np.any(needed > steps[:, 0]):
            weight = _coarser(weight, axis, np.maximum(needed, steps[:, 0]))
            node.replace_input_with(1, dequantize(graph, weight, name))
        step = np.moveaxis(weight.step, axis, 0).reshape(channels, -1)[:, 0] * np.float32(input_step)
        codes = np.clip(np.round(bias / step), -_LARGEST, _LARGEST).astype(np.int32)
        owner.replace_input_with(index, dequantize(graph, Quantized(codes, np.zeros_like(codes), step), f"{name}_bias"))


def move_biases(graph: ir.Graph, moves: np.random.Generator) -> bool:
    """Moves every int32 bias by up to half a step, as much as rounding did. Returns whether there is one."""
    found = False
    for node in list(graph):
        codes = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        step = None if codes is None or codes.dtype != np.int32 else constant(node.inputs[1])
        if codes is None or step is None:
            continue
        moved = ((codes + moves.uniform(-0.5, 0.5, codes.shape)) * step).astype(step.dtype)
        value = add_constant(graph, f"{node.outputs[0].name}_moved", moved)
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)
        found = True
    return found


def _bias_slot(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node and input index that hold the bias; for a MatMul that is the Add behind it."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    add = only_user(node.outputs[0])
    if add is None or add.op_type != "Add" or add.domain != "":
        return None
    return add, 1 if add.inputs[0] is node.outputs[0] else 0


def step_of(value: ir.Value | None) -> np.float32 | None:
    """Step of a tensor quantized per tensor, None for any other."""
    node = dequantizer_of(value)
    step = None if node is None else constant(node.inputs[1])
    return None if step is None else np.float32(step.item())


def _coarser(weight: Quantized, axis: int, steps: np.ndarray) -> Quantized:
    """`weight` with wider steps in the channels whose bias does not fit int32.

    Next to such a bias the channel's products are so small that this rounding is below float32's own on the sum.
    """
    shape = [1] * weight.codes.ndim
    shape[axis] = -1
    wide = np.broadcast_to(steps.reshape(shape), weight.codes.shape)
    zero = weight.zero.astype(np.int64)
    codes = np.round((weight.codes.astype(np.int64) - zero) * (weight.step / wide)).astype(np.int64) + zero
    return Quantized(codes.astype(weight.codes.dtype), weight.zero, wide)
