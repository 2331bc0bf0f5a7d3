"""Quantizers of activations become QuantizeLinear/DequantizeLinear pairs on uint8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from nncf_ext import numpy_xp
from nncf_ext.export.constants import add_constant, constant
from nncf_ext.export.marked import FloatLevels, Levels, grid_of, is_marker, key_of
from nncf_ext.export.rewiring import bypass, only_user, replace_node

_SIGNED_ZERO = 128  # zero point of symmetric signed grids: ONNX Runtime keeps convolutions of int8 activations in float
_MOVE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "MaxPool")
_SELECT = ("Gather", "Slice")


def lower_activations(graph: ir.Graph, grids: Mapping[str, Levels | FloatLevels]) -> None:
    """Replace every marker that is left. A Relu or Clip in front of one is moved behind the rounding, onto the codes."""
    first: dict[tuple[ir.Value | None, str], ir.Node] = {}
    for node in list(graph):
        if not is_marker(node):
            continue
        same = first.setdefault((node.inputs[0], key_of(node)), node)
        if same is not node:  # one quantizer at the inputs of several operators
            bypass(node, same.outputs[0])
    for node in list(graph):
        if is_marker(node):
            grid = grid_of(node, grids)
            if isinstance(grid, FloatLevels):
                _lower_float(graph, node, grid)
            else:
                _lower(graph, node, grid)
    for node in list(graph):
        if node.domain == "" and node.op_type in ("Conv", "Gemm", "MatMul"):
            _repeat_behind_selection(graph, node)


def dequantizer_of(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear (of one step) whose values `value` has, also behind operators that only move or select elements."""
    node = value.producer() if value is not None else None
    while node is not None and node.domain == "" and node.op_type in (*_MOVE, *_SELECT):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    step, zero = constant(node.inputs[1]), constant(node.inputs[2])
    return node if step is not None and step.size == 1 and zero is not None and zero.dtype == np.uint8 else None


def _repeat_behind_selection(graph: ir.Graph, node: ir.Node) -> None:
    """Quantize selected elements (BERT's first token) again, to the same codes: ONNX Runtime does not look behind a Gather."""
    x = node.inputs[0]
    selection, source = x.producer() if x is not None else None, dequantizer_of(x)
    if x is None or selection is None or source is None or selection.op_type not in _SELECT:
        return
    quantize = ir.node("QuantizeLinear", [x, *source.inputs[1:]], name=f"{x.name}_QuantizeLinear")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *source.inputs[1:]], name=f"{x.name}_DequantizeLinear")
    graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(0, dequantize.outputs[0])


def _lower(graph: ir.Graph, node: ir.Node, grid: Levels) -> None:
    if np.size(grid.step) > 1 or _is_read_inside(graph, node.outputs[0]):
        _lower_in_float(graph, node, grid)
        return
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    first = _SIGNED_ZERO - grid.zero_code if grid.is_symmetric else np.zeros_like(grid.zero_code)  # code of the grid's low end
    zero, step = (grid.zero_code + first).reshape(()), np.asarray(grid.step, np.float32).reshape(())
    low, high = int(first.item()), int(first.item()) + grid.intervals
    if (
        low == 1 and not grid.cuts
    ):  # of a narrow signed grid, -128 is let through: one step beyond its end, and no operator for it
        low = 0
    x, low, high = _take_in_clip(x, step, int(zero), low, high)
    inputs = [add_constant(graph, f"{y.name}_scale", step), add_constant(graph, f"{y.name}_zero_point", zero.astype(np.uint8))]
    new = [ir.node("QuantizeLinear", [x, *inputs], name=f"{y.name}_QuantizeLinear")]
    if low > 0 or high < 255:
        ends = [add_constant(graph, f"{y.name}_{name}", np.array(end, np.uint8)) for name, end in (("low", low), ("high", high))]
        new.append(ir.node("Clip", [new[0].outputs[0], *ends], name=f"{y.name}_Clip"))
    for part, suffix in zip(new, ("codes", "clipped"), strict=False):
        part.outputs[0].name = f"{y.name}_{suffix}"
        part.outputs[0].dtype, part.outputs[0].shape = ir.DataType.UINT8, y.shape
    new.append(ir.node("DequantizeLinear", [new[-1].outputs[0], *inputs], name=f"{y.name}_DequantizeLinear"))
    new[-1].outputs[0].name = f"{y.name}_dequantized"
    graph.insert_before(node, new)
    replace_node(node, new[-1])


def _is_read_inside(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether the body of a loop or branch reads `value`, also behind operators that only move or select elements."""
    for user, _ in value.uses():
        if user.graph is not graph:
            return True
        if user.domain == "" and user.op_type in (*_MOVE, *_SELECT) and any(_is_read_inside(graph, y) for y in user.outputs):
            return True
    return False


def _lower_in_float(graph: ir.Graph, node: ir.Node, grid: Levels) -> None:
    """Steps by channel, and what a loop reads: rounding in floating point. ONNX Runtime 1.32 would take a QuantizeLinear and a
    DequantizeLinear of the first into the integer operators beside, which then refuse to run with zero points by channel; and it
    aborts where it moves them to a node that has a body."""
    y = node.outputs[0]
    shape = [1] * np.ndim(grid.step)
    if np.size(grid.step) > 1:
        shape[_axis(node, grid.step)] = -1
    step = np.asarray(grid.step, np.float32)
    value, new = node.inputs[0], []
    for op, operand in (
        ("Div", step),
        ("Round", None),
        ("Max", -grid.zero_code),
        ("Min", grid.intervals - grid.zero_code),
        ("Mul", step),
    ):
        operands = []
        if operand is not None:
            array = np.broadcast_to(operand, step.shape).astype(np.float32).reshape(shape)
            operands.append(add_constant(graph, f"{y.name}_{op}", array))
        new.append(ir.node(op, [value, *operands], name=f"{y.name}_{op}"))
        value = new[-1].outputs[0]
        value.name, value.type, value.shape = f"{y.name}_{op.lower()}", y.type, y.shape
    graph.insert_before(node, new)
    replace_node(node, new[-1])


def _lower_float(graph: ir.Graph, node: ir.Node, grid: FloatLevels) -> None:
    """To a number of the type and back. QuantizeLinear cuts at the type's largest number.

    A Relu in front is moved behind, which is the same, for numbers have a sign: ONNX Runtime 1.32 drops it where it takes a
    QuantizeLinear with the zero point 0 for one to unsigned integers.
    """
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    relu = x.producer()
    if relu is None or relu.domain != "" or relu.op_type != "Relu" or only_user(x) is None:
        relu = None
    else:
        x = relu.inputs[0]
        assert x is not None
    scale = np.asarray(grid.scale_of(numpy_xp, np.zeros(())), np.float32)
    attributes = {} if scale.size == 1 else {"axis": _axis(node, scale)}
    shape = () if scale.size == 1 else (scale.size,)
    zero = np.zeros(shape, grid.type.numpy())
    inputs = [add_constant(graph, f"{y.name}_scale", scale.reshape(shape)), add_constant(graph, f"{y.name}_zero_point", zero)]
    quantize = ir.node("QuantizeLinear", [x, *inputs], {**attributes, "saturate": 1}, name=f"{y.name}_QuantizeLinear")
    quantize.outputs[0].name = f"{y.name}_codes"
    quantize.outputs[0].dtype, quantize.outputs[0].shape = grid.type, y.shape
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *inputs], attributes, name=f"{y.name}_DequantizeLinear")
    dequantize.outputs[0].name = f"{y.name}_dequantized"
    dequantize.outputs[0].dtype, dequantize.outputs[0].shape = ir.DataType.FLOAT, y.shape
    new = [quantize, dequantize]
    if relu is not None:
        new.append(ir.node("Relu", [dequantize.outputs[0]], name=f"{y.name}_Relu"))
    graph.insert_before(node, new)
    replace_node(node, new[-1])


def _take_in_clip(x: ir.Value, step: np.ndarray, zero: int, low: int, high: int) -> tuple[ir.Value, int, int]:
    """Bounds on the codes that include those of a Relu or Clip in front, and what goes into that operator.

    Rounding is monotonic, so that quantizing first and clipping the codes gives the same. The runtimes see an integer
    convolution only where the quantizer follows it at once.
    """
    node = x.producer()
    if node is None or node.domain != "" or node.op_type not in ("Relu", "Clip") or only_user(x) is None:
        return x, low, high
    ends: list[np.ndarray | None] = [np.zeros(()), None]
    if node.op_type == "Clip":
        ends = [constant(v) for v in (*node.inputs[1:], None, None)][:2]
        if any(e is None and v is not None for e, v in zip(ends, node.inputs[1:], strict=False)):
            return x, low, high
    before = node.inputs[0]
    assert before is not None
    codes = [None if end is None else int(np.clip(np.round(np.float32(end.item()) / step) + zero, 0, 255)) for end in ends]
    return before, low if codes[0] is None else max(low, codes[0]), high if codes[1] is None else min(high, codes[1])


def _axis(marker: ir.Node, step: np.ndarray) -> int:
    """Axis of the channels in the exported tensor, which may be laid out in another order than the framework's."""
    return marker.attributes.get_int("axis", int(np.argmax(step.shape)))
