"""Quantizers of constants become integer codes behind a DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from nncf_ext.export.constants import add_constant, constant, evaluate
from nncf_ext.export.marked import FloatLevels, Levels, grid_of, is_marker

BLOCKS = (128, 64, 32)  # sizes of blocks, as configs have them
_FLOAT8 = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)
_LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather")


class Quantized(NamedTuple):
    """A quantized constant, (codes - zero) * step. The three arrays have one shape."""

    codes: np.ndarray
    zero: np.ndarray
    step: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return (self.codes.astype(np.float32) - self.zero) * self.step


def lower_weights(graph: ir.Graph, grids: Mapping[str, Levels | FloatLevels]) -> None:
    """Replace every marker of a constant; the codes are those of `fake_quantize`, bit for bit.

    Operators that only move elements (a transposed kernel) are applied to the codes at once, so that the DequantizeLinear is
    the last node before the operator that uses the weight: the runtimes recognise no other order.
    """
    for node in list(graph):
        value = node.inputs[0] if is_marker(node) else None
        weight = constant(value)
        if value is not None and weight is not None:
            grid, name = grid_of(node, grids), str(value.name)
            if isinstance(grid, FloatLevels):
                numbers, scale = grid.codes(weight)
                whole = Quantized(numbers, np.zeros_like(numbers), np.broadcast_to(scale, numbers.shape))
                _move(graph, node.outputs[0], whole, name, grid.type)
            elif grid.intervals > 255 or np.any(grid.zero_code < 0) or np.any(grid.zero_code > grid.intervals):
                _move(graph, node.outputs[0], Quantized(*_float(weight, grid)), name, ir.DataType.FLOAT)
            else:
                _move(graph, node.outputs[0], quantize(weight, grid), name, _packed(grid))
            graph.remove(node, safe=True)


def quantize(weight: np.ndarray, grid: Levels) -> Quantized:
    """int8 with zero point 0 where the codes fit (every symmetric grid), else uint8 from the grid's low end. In blocks, the
    codes of 4 bits and fewer fit int4 or uint4 in the same way.

    Codes of fewer bits are spread over 7 by a power of two, which leaves every value as it is, bit for bit: an int32 bias has the
    step of input times weight, and would be coarse beside a coarse weight.
    """
    spread = _spread(grid) if grid.block is None else 1
    codes, zero, highest = grid.codes(weight) * spread, grid.zero_code * spread, (grid.intervals - grid.zero_code) * spread
    below, above = (8, 7) if _is_narrow(grid) else (128, 127)
    if np.all(zero <= below) and np.all(highest <= above):
        zero, dtype = np.zeros_like(zero), np.int8
    else:
        codes, dtype = codes + zero, np.uint8
    step = np.asarray(grid.step, np.float32) / np.float32(spread)
    return Quantized(codes.astype(dtype), *(np.broadcast_to(a, codes.shape) for a in (zero.astype(dtype), step)))


def _spread(grid: Levels) -> int:
    """The largest power of two by which the grid's codes may be multiplied and stay in 7 bits."""
    largest = max(int(np.max(grid.zero_code)), int(np.max(grid.intervals - grid.zero_code)) + 1)
    return max(64 >> (largest - 1).bit_length(), 1)


def _packed(grid: Levels) -> ir.DataType | None:
    """The type of the codes in blocks, which no integer operator reads: 4 bits where that is enough."""
    if not _is_narrow(grid):
        return None
    return ir.DataType.INT4 if np.all(grid.zero_code <= 8) and np.all(grid.intervals - grid.zero_code <= 7) else ir.DataType.UINT4


def _is_narrow(grid: Levels) -> bool:
    return grid.block is not None and grid.intervals <= 15


def _float(weight: np.ndarray, grid: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = (grid.codes(weight) * np.asarray(grid.step, np.float32)).astype(np.float32)
    return values, np.zeros_like(values), np.ones_like(values)


def _move(graph: ir.Graph, value: ir.Value, weight: Quantized, name: str, dtype: ir.DataType | None = None) -> None:
    """Give the users of `value` the quantized `weight`, following it through operators of layout. dtype: see `dequantize`."""
    stay = []
    for node, index in list(value.uses()):
        others = [constant(v) for v in node.inputs[1:]]
        fixed = all(array is not None or v is None for array, v in zip(others, node.inputs[1:], strict=True))
        if index == 0 and node.domain == "" and node.op_type in _LAYOUT and fixed:
            parts = [evaluate(node, [array, *others], graph.opset_imports[""]) for array in weight]
            for output, moved in zip(node.outputs, zip(*parts, strict=True), strict=True):
                _move(graph, output, Quantized(*moved), name, dtype)
            graph.remove(node, safe=True)
        else:
            stay.append((node, index))
    if stay:
        real = dequantize(graph, weight, name, dtype)
        for node, index in stay:
            node.replace_input_with(index, real)


def dequantize(graph: ir.Graph, weight: Quantized, name: str, dtype: ir.DataType | None = None) -> ir.Value:
    """`weight` as initializers and a DequantizeLinear at the head of the graph.

    Per tensor, or per channel of the one axis along which step and zero point vary, or per channel of one axis in blocks of
    another. ONNX has nothing else for more than one axis: such a weight stays float.
    dtype: of the codes in the file, where it is another than they have; FLOAT: no codes at all.
    """
    if dtype == ir.DataType.FLOAT:
        return add_constant(graph, name, weight.values)
    axes = [axis for axis in range(weight.step.ndim) if varies(weight.step, axis) or varies(weight.zero, axis)]
    blocks = _blocks(weight, axes) if len(axes) > 1 else None
    if len(axes) > 1 and blocks is None:
        return add_constant(graph, name, weight.values)
    kind = weight.codes.dtype if dtype is None else dtype.numpy()
    weight = Quantized(weight.codes.astype(kind), weight.zero.astype(kind), weight.step)
    index = tuple(slice(None) if axis in axes else 0 for axis in range(weight.step.ndim))
    attributes = {"axis": axes[0]} if axes else {}
    if blocks is not None:
        axis, size = blocks
        index = tuple(slice(None, None, size if a == axis else 1) for a in range(weight.step.ndim))
        attributes = {"axis": axis, "block_size": size}
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


def _blocks(weight: Quantized, axes: Sequence[int]) -> tuple[int, int] | None:
    """(axis, size) of the largest blocks in which step and zero point of a matrix are constant."""
    if weight.step.ndim != 2:
        return None
    for size in BLOCKS:
        for axis in axes:
            if weight.step.shape[axis] % size == 0:
                whole = [np.repeat(a.take(range(0, a.shape[axis], size), axis), size, axis) for a in (weight.step, weight.zero)]
                if np.array_equal(whole[0], weight.step) and np.array_equal(whole[1], weight.zero):
                    return axis, size
    return None


def opset_of(graph: ir.Graph) -> int:
    """The lowest opset that has what this graph's DequantizeLinear read."""
    needed = 1
    for node in graph:
        if node.domain == "" and node.op_type == "DequantizeLinear":
            codes = node.inputs[0]
            is_float8 = node.inputs[2] is not None and node.inputs[2].dtype in _FLOAT8
            narrow = codes is not None and codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
            needed = max(needed, 19 if is_float8 else 1, 21 if narrow or "block_size" in node.attributes else 1)
    return needed


def quantized_constant(value: ir.Value | None) -> Quantized | None:
    """What `dequantize` wrote, per tensor or channel in 8-bit integers; None for any other value."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    codes, step, zero = (constant(v) for v in node.inputs)
    if codes is None or step is None or zero is None or codes.dtype not in (np.int8, np.uint8) or "block_size" in node.attributes:
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
