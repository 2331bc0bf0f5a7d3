"""Exact folding of BatchNorm (and of any per-channel scale or shift) into the Conv, ConvTranspose, Gemm or MatMul before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from nncf_ext.export.constants import add_constant, constant
from nncf_ext.export.rewiring import only_user, replace_node
from nncf_ext.export.weights import Quantized, dequantize, quantized_constant, weight_name

_SMALLEST = 1e-30  # a channel with a smaller step adds nothing to a float32 sum


class Affine(NamedTuple):
    """y = scale * x + shift per channel; two float64 vectors."""

    scale: np.ndarray
    shift: np.ndarray


def fold_batchnorm(graph: ir.Graph) -> None:
    """Fold what follows every linear operator, as far as it is a constant scale and shift per output channel.

    Integer codes stay as they are: the step of channel c takes |scale_c|, and where scale_c < 0 the codes change sign. Quantizers
    (markers) end the walk, so the one after a BatchNorm now stands after the linear operator.
    """
    for node in list(graph):
        if node.domain == "" and node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            while _fold_next(graph, node):
                pass
        elif node.domain == "" and node.op_type == "MatMul":
            while _fold_after_matmul(graph, node):
                pass


def channel_axis(node: ir.Node) -> int | None:
    """Axis of the output channels in the weight (input 1) of a linear operator; None where there is no such axis."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if node.attributes.get_int("group", 1) == 1 else None
        case "Gemm":
            return 0 if node.attributes.get_int("transB", 0) else 1
        case _:
            weight = node.inputs[1]
            return 1 if weight is not None and weight.shape is not None and len(weight.shape) == 2 else None


def per_channel(array: np.ndarray | None, axis: int, channels: int) -> np.ndarray | None:
    """A constant operand as a vector over the channels, float64; `axis` counts from the end (-1 is the last one).

    None where the operand varies along another axis or has more axes than the tensor (`axis` is its channel axis).
    """
    if array is None:
        return None
    if array.size == 1:
        return np.full(channels, array.item(), np.float64)
    if array.ndim < -axis or array.shape[axis] != channels or array.size != channels:
        return None
    return array.reshape(channels).astype(np.float64)


def _fold_next(graph: ir.Graph, node: ir.Node) -> bool:
    axis, weight, bias = channel_axis(node), node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    following = only_user(node.outputs[0])
    if following is None or axis is None or weight is None or weight.shape is None:
        return False
    channels, rank = weight.shape[axis], len(weight.shape)
    if not isinstance(channels, int):  # an activation of free size
        return False
    out_axis = -1 if node.op_type == "Gemm" else 1 - rank
    affine = _affine(following, node.outputs[0], out_axis, channels)
    old_bias = np.zeros(channels) if bias is None else per_channel(constant(bias), -1, channels)
    if affine is None or old_bias is None or node.attributes.get_float("beta", 1.0) != 1.0:
        return False
    scaled = _scaled(graph, weight, axis, affine.scale)
    if scaled is None:
        return False
    new_bias = (old_bias * affine.scale + affine.shift).astype(np.float32)
    node.resize_inputs(3)
    node.replace_input_with(1, scaled)
    node.replace_input_with(2, add_constant(graph, f"{weight_name(weight)}_bias", new_bias))
    replace_node(following, node)
    return True


def _fold_after_matmul(graph: ir.Graph, node: ir.Node) -> bool:
    """As `_fold_next`; the bias is the Add behind the MatMul."""
    weight, axis = node.inputs[1], channel_axis(node)
    if weight is None or axis is None or weight.shape is None:
        return False
    channels = weight.shape[axis]
    if not isinstance(channels, int):  # an activation of free size
        return False
    following = only_user(node.outputs[0])
    first = following and _affine(following, node.outputs[0], -1, channels)
    if following is None or first is None:
        return False
    last, bias = node, np.zeros(channels)
    if following.op_type == "Add":
        last, bias = following, first.shift
        following = only_user(last.outputs[0])
    affine = following and _affine(following, last.outputs[0], -1, channels)
    scaled = affine and _scaled(graph, weight, axis, affine.scale)
    if following is None or affine is None or scaled is None:
        return False
    node.replace_input_with(1, scaled)
    shift = add_constant(graph, f"{weight_name(weight)}_bias", (bias * affine.scale + affine.shift).astype(np.float32))
    add = ir.node("Add", [node.outputs[0], shift], name=f"{node.name}_bias")
    following.prepend(add)
    replace_node(following, add)
    if last is not node:
        last.graph.remove(last, safe=True)  # type: ignore[union-attr]
    return True


def _affine(node: ir.Node, x: ir.Value, axis: int, channels: int) -> Affine | None:
    """What `node` does to `x`, if that is a constant scale and shift per channel."""
    if node.domain != "":
        return None
    if node.op_type == "BatchNormalization":
        if node.inputs[0] is not x or axis == -1 or node.attributes.get_int("training_mode", 0):
            return None
        arrays = [constant(v) for v in node.inputs[1:]]
        if any(a is None for a in arrays):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return Affine(scale, beta - mean * scale)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first = node.inputs[0] is x
    other = per_channel(constant(node.inputs[1 if first else 0]), axis, channels)
    if other is None or (node.op_type == "Div" and not first):
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op_type:
        case "Mul":
            return Affine(other, zero)
        case "Div":
            return Affine(1 / other, zero)
        case "Add":
            return Affine(one, other)
        case _:
            return Affine(one, -other) if first else Affine(-one, other)


def _scaled(graph: ir.Graph, weight: ir.Value, axis: int, scale: np.ndarray) -> ir.Value | None:
    """`weight` with each channel of `axis` multiplied; None where that cannot be done exactly."""
    if np.all(scale == 1):
        return weight
    array = constant(weight)
    if array is not None:
        shape = [1] * array.ndim
        shape[axis] = -1
        return add_constant(graph, weight_name(weight), (array * scale.reshape(shape)).astype(array.dtype))
    parts = quantized_constant(weight)
    if parts is None:
        return None
    shape = [1] * parts.codes.ndim
    shape[axis] = -1
    factor = scale.reshape(shape)
    codes, zero = parts.codes.astype(np.int64), parts.zero.astype(np.int64)
    limits = np.iinfo(parts.codes.dtype)
    mirror = limits.max if limits.min == 0 else 0  # uint8 codes q become 255 - q; int8 ones -q, with their zero point at 0
    flipped = np.where(factor < 0, mirror - codes, codes)
    new_zero = np.where(factor < 0, mirror - zero, zero)
    new_step = (parts.step * np.abs(factor)).astype(np.float32)
    dead = new_step < _SMALLEST
    flipped, new_step = np.where(dead, new_zero, flipped), np.where(dead, parts.step, new_step)
    if flipped.max() > limits.max:  # -128 has no counterpart in int8
        return None
    dtype = parts.codes.dtype
    return dequantize(graph, Quantized(flipped.astype(dtype), new_zero.astype(dtype), new_step), weight_name(weight))
