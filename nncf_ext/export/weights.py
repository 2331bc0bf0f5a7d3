"""Quantizers of constants become integer codes behind a DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from nncf_ext.export.constants import add_constant, constant, evaluate
from nncf_ext.export.marked import Grid, grid_of, is_marker

_LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather")


class Quantized(NamedTuple):
    """A quantized constant, (codes - zero) * step. The three arrays have one shape."""

    codes: np.ndarray
    zero: np.ndarray
    step: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return (self.codes.astype(np.float32) - self.zero) * self.step


def lower_weights(graph: ir.Graph, grids: Mapping[str, Grid]) -> None:
    """Replace every marker of a constant; the codes are those of `fake_quantize`, bit for bit.

    Operators that only move elements (a transposed kernel) are applied to the codes at once, so that the DequantizeLinear is
    the last node before the operator that uses the weight: the runtimes recognise no other order.
    """
    for node in list(graph):
        value = node.inputs[0] if is_marker(node) else None
        weight = constant(value)
        if value is not None and weight is not None:
            _move(graph, node.outputs[0], quantize(weight, grid_of(node, grids)), str(value.name))
            graph.remove(node, safe=True)


def quantize(weight: np.ndarray, grid: Grid) -> Quantized:
    """int8 with zero point 0 where the codes fit (every symmetric grid), else uint8 from the grid's low end.

    Codes of fewer bits are spread over 7 by a power of two, which leaves every value as it is, bit for bit: an int32 bias has the
    step of input times weight, and would be coarse beside a coarse weight.
    """
    spread = _spread(grid)
    codes, zero, highest = grid.codes(weight) * spread, grid.zero * spread, (grid.intervals - grid.zero) * spread
    if np.all(zero <= 128) and np.all(highest <= 127):
        zero, dtype = np.zeros_like(zero), np.int8
    else:
        codes, dtype = codes + zero, np.uint8
    step = np.asarray(grid.step, np.float32) / np.float32(spread)
    return Quantized(codes.astype(dtype), *(np.broadcast_to(a, codes.shape) for a in (zero.astype(dtype), step)))


def _spread(grid: Grid) -> int:
    """The largest power of two by which the grid's codes may be multiplied and stay in 7 bits."""
    largest = max(int(np.max(grid.zero)), int(np.max(grid.intervals - grid.zero)) + 1)
    return max(64 >> (largest - 1).bit_length(), 1)


def _move(graph: ir.Graph, value: ir.Value, weight: Quantized, name: str) -> None:
    """Give the users of `value` the quantized `weight`, following it through operators of layout."""
    stay = []
    for node, index in list(value.uses()):
        others = [constant(v) for v in node.inputs[1:]]
        fixed = all(array is not None or v is None for array, v in zip(others, node.inputs[1:], strict=True))
        if index == 0 and node.domain == "" and node.op_type in _LAYOUT and fixed:
            parts = [evaluate(node, [array, *others], graph.opset_imports[""]) for array in weight]
            for output, moved in zip(node.outputs, zip(*parts, strict=True), strict=True):
                _move(graph, output, Quantized(*moved), name)
            graph.remove(node, safe=True)
        else:
            stay.append((node, index))
    if stay:
        real = dequantize(graph, weight, name)
        for node, index in stay:
            node.replace_input_with(index, real)


def dequantize(graph: ir.Graph, weight: Quantized, name: str) -> ir.Value:
    """`weight` as initializers and a DequantizeLinear at the head of the graph.

    Per tensor, or per channel of the one axis along which step and zero point vary. ONNX has nothing for more than one axis:
    such a weight stays float.
    """
    axes = [axis for axis in range(weight.step.ndim) if varies(weight.step, axis) or varies(weight.zero, axis)]
    if len(axes) > 1:
        return add_constant(graph, name, weight.values)
    index = tuple(slice(None) if axis in axes else 0 for axis in range(weight.step.ndim))
    attributes = {"axis": axes[0]} if axes else {}
    inputs = [
        add_constant(graph, f"{name}_quantized", weight.codes),
        add_constant(graph, f"{name}_scale", weight.step[index]),
        add_constant(graph, f"{name}_zero_point", weight.zero[index]),
    ]
    node = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}_DequantizeLinear")
    node.outputs[0].name = f"{name}_dequantized"
    node.outputs[0].dtype = ir.DataType.FLOAT
    node.outputs[0].shape = ir.Shape(weight.codes.shape)
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def quantized_constant(value: ir.Value | None) -> Quantized | None:
    """What `dequantize` wrote, None for any other value."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    codes, step, zero = (constant(v) for v in node.inputs)
    if codes is None or step is None or zero is None:
        return None
    shape = [1] * codes.ndim
    if step.ndim:
        shape[node.attributes.get_int("axis", 1)] = -1
    return Quantized(codes, *(np.broadcast_to(a.reshape(shape), codes.shape) for a in (zero, step)))


def weight_name(weight: ir.Value) -> str:
    """Name of a weight without what this pass has appended to it."""
    return str(weight.name).removesuffix("_dequantized")


def varies(array: np.ndarray, axis: int) -> bool:
    """Whether `array` is not constant along `axis`."""
    return bool(np.any(array != array.take([0], axis)))
