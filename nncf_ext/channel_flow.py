"""One pass of a model over numbers of units (see `channels.py`): what each ONNX operator does to the channels of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nncf_ext import ops
from nncf_ext.channel_units import Units, collapsed
from nncf_ext.graph import INPUT, OUTPUT, Graph, Node, Parameter

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model. An unknown dimension (the batch, a length) counts as 1.

    ids: the unit that each element belongs to, -1 for none; of the tensor's rank, with size 1 along axes where it does not vary.
    offset: what makes elements differ from zero although all parameters of their unit are zero ("" where they are zero).
    """

    shape: Shape
    ids: np.ndarray
    offset: str = ""

    @property
    def varying(self) -> tuple[int, ...]:
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)


def plain(shape: Shape) -> Tensor:
    """A tensor without units."""
    return Tensor(shape, np.full((1,) * len(shape), -1))


def run(graph: Graph, units: Units) -> list[np.ndarray]:
    """Execute `graph`, as far as its outputs depend on it. The ids of all tensors in it."""
    needed = _needed(graph)
    values: dict[tuple[str, int], Tensor] = {}
    for node in graph.nodes:
        if node.name not in needed:
            continue
        edges = graph.inputs_of.get(node.name, ())
        inputs = {edge.target_port: values.get((edge.source, edge.source_port)) or plain(_known(edge.shape)) for edge in edges}
        shapes = {edge.source_port: edge.shape for edge in graph.outputs_of.get(node.name, ())}
        step = Step(node, inputs, shapes, units)
        try:
            made = _OPERATORS.get(node.op, opaque)(step)
        except _NotFollowed:
            made = opaque(step)
        for port, tensor in (made if isinstance(made, dict) else dict.fromkeys(shapes, made)).items():
            values[node.name, port] = replace(tensor, ids=collapsed(tensor.ids))
    units.end()
    return [tensor.ids for tensor in values.values()]


def _needed(graph: Graph) -> set[str]:
    """Nodes that an output of the model depends on."""
    needed: set[str] = set()
    stack = [node.name for node in graph.nodes if node.op == OUTPUT]
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(edge.source for edge in graph.inputs_of.get(name, ()))
    return needed


def _known(shape: Shape) -> Shape:
    return tuple(1 if size < 0 else size for size in shape)


class _NotFollowed(Exception):
    """What an operator does to its channels is not known after all: it is treated as an opaque one."""


@dataclass(frozen=True)
class Step:
    """One operator at work. inputs: by port. shapes: of its outputs by port, as traced, with -1 for unknown dimensions."""

    node: Node
    inputs: Mapping[int, Tensor]
    shapes: Mapping[int, Shape]
    units: Units

    def __str__(self) -> str:
        return f"{self.node.op} {self.node.name}"

    @property
    def x(self) -> Tensor:
        """The main input."""
        for port in sorted(self.inputs):
            return self.inputs[port]
        raise _NotFollowed

    def attr(self, *names: str) -> Any:
        for name in names:
            if name in self.node.attrs:
                return self.node.attrs[name]
        raise _NotFollowed

    def shape(self, like: Tensor | None = None) -> Shape:
        """Shape of the output; what the trace does not know of it is as in `like`, which has the same rank."""
        if not self.shapes:
            raise _NotFollowed
        traced = self.shapes[min(self.shapes)]
        if like is None or len(like.shape) != len(traced):
            return _known(traced)
        return tuple(like.shape[axis] if size < 0 else size for axis, size in enumerate(traced))

    # What operators do with units ------------------------------------------------------------------------------------------

    def together(self, x: Tensor, axes: Iterable[int], why: str) -> Tensor:
        """`x`, of which along `axes` everything stays or goes at once."""
        axes = [axis % len(x.shape) for axis in axes]
        return replace(x, ids=collapsed(self.units.together(x.ids, axes, f"{self} {why}")))

    def without(self, x: Tensor, axes: Iterable[int]) -> np.ndarray:
        """Ids of `x` after everything along `axes` was made one element, which keeps the units that do not vary there."""
        axes = tuple(axis % len(x.shape) for axis in axes)
        if any(axis in axes for axis in x.varying):
            return np.full((1,) * len(x.shape), -1)
        return x.ids

    def follow(self, x: Tensor, parameter: Parameter | None, axis_of: Mapping[int, int], why: str = "") -> tuple[Tensor, bool]:
        """A parameter that `x` meets element by element loses the elements that `x` loses; whether it does.

        axis_of: axis of the tensor, by axis of the parameter. Where the parameter spans only some of the axes along which the
        units vary, it stays as it is, and so units must not differ there.
        """
        if parameter is None:
            return x, False
        axis_of = {at: axis % len(x.shape) for at, axis in axis_of.items() if parameter.shape[at] > 1}
        met = {axis: at for at, axis in axis_of.items() if axis in x.varying}
        if len(met) < len(x.varying):
            self.units.keep(parameter, tuple(axis_of))
            return self.together(x, met, why or "has the same values for all of them"), False
        axes = tuple(sorted(met.values()))
        if not axes:
            self.units.keep(parameter, tuple(axis_of))
            return x, False
        own = self.units.of(self.node, parameter, axes, "follower")
        theirs = x.ids.transpose([axis_of[at] for at in axes] + [a for a in range(len(x.shape)) if a not in met]).reshape(own.shape)
        self.units.link(own, theirs)
        self.units.block(np.where(theirs < 0, own, -1), _STAYS)
        return x, True

    def meet(self, tensors: Sequence[Tensor], shape: Shape) -> Tensor:
        """Tensors that are combined element by element, with numpy's broadcasting, have the same units at the same places."""
        aligned = [_aligned(x, len(shape)) for x in tensors]
        met = np.full((1,) * len(shape), -1)
        for x in aligned:
            self.units.link(met, x.ids)
            met = np.where(met < 0, x.ids, met)
        result = Tensor(shape, collapsed(met))
        for x in aligned:  # elements without a unit stay, and so does what they meet
            stays = (x.ids < 0) & (result.ids >= 0)
            extent = [axis for axis in result.varying if x.shape[axis] > 1]
            if not stays.any() or not extent:
                continue
            if len(extent) < len(result.varying):
                result = self.together(result, extent, "meets values that stay")
            else:
                self.units.block(np.where(stays, result.ids, -1), f"{self} meets values that stay")
        return result

    def consume(self, x: Tensor, parameter: Parameter, axis_of: Mapping[int, int]) -> None:
        """The parameter's axes (keys) are multiplied with the tensor's axes (values), and summed over."""
        axes = tuple(sorted(axis_of))
        own = self.units.of(self.node, parameter, axes, "input")
        if any(axis_of[at] in x.varying for at in axes):
            order = [axis_of[at] for at in axes]
            one = x.ids.transpose(order + [a for a in range(len(x.shape)) if a not in order])
            theirs = np.broadcast_to(one.reshape(one.shape[: len(axes)]), own.shape)
        else:
            theirs = np.broadcast_to(x.ids.max(), own.shape)
        self.units.link(own, theirs)
        self.units.block(np.where(theirs < 0, own, -1), _STAYS)
        if x.offset:
            self.units.block(theirs, x.offset)

    def make(self, parameter: Parameter, axis_of: Mapping[int, int], shape: Shape) -> Tensor:
        """New units: the parameter's axes (keys) become the tensor's axes (values)."""
        axes = tuple(sorted(axis_of))
        own = self.units.of(self.node, parameter, axes, "output")
        if own.size == 1:
            return plain(shape)
        ids = own.transpose(sorted(range(len(axes)), key=lambda i: axis_of[axes[i]]))
        sizes = [1] * len(shape)
        for at in axes:
            sizes[axis_of[at] % len(shape)] = parameter.shape[at]
        return Tensor(shape, ids.reshape(sizes))

    def product(
        self, x: Tensor, weight: Parameter, summed: Mapping[int, int], made: Mapping[int, int], kept: Mapping[int, int], shape: Shape
    ) -> Tensor:
        """`x` times a weight. summed: weight axis -> axis of x; made: weight axis -> output axis; kept: axis of x -> output axis."""
        over = tuple(summed.values())
        if set(x.varying) - set(over):  # units along other axes, like attention heads or the groups of a convolution
            x = self.together(x, over, "sums over them")
        if not set(x.varying) - set(over):
            self.consume(x, weight, summed)
            return self.make(weight, made, shape)
        self.units.keep(weight, (*summed, *made))
        sizes = [1] * len(shape)
        for axis, at in kept.items():
            sizes[at] = x.ids.shape[axis]
        order = sorted(kept, key=lambda axis: kept[axis])
        rest = [axis for axis in range(len(x.shape)) if axis not in kept]
        return Tensor(shape, x.ids.transpose(order + rest).reshape(sizes), x.offset)


_STAYS = "a layer that shares the parameter keeps them"


def _aligned(x: Tensor, rank: int) -> Tensor:
    missing = (1,) * (rank - len(x.shape))
    return Tensor(missing + x.shape, x.ids.reshape(missing + x.ids.shape), x.offset)


def opaque(step: Step) -> dict[int, Tensor]:
    """Nothing is known of the operator: what reaches it stays."""
    for x in step.inputs.values():
        step.units.block(x.ids, f"{step} may use them in any way")
    return {port: plain(_known(shape)) for port, shape in step.shapes.items()}


def _output(step: Step) -> dict[int, Tensor]:
    for x in step.inputs.values():
        step.units.block(x.ids, "they reach an output of the model")
    return {}


def _nothing(step: Step) -> dict[int, Tensor]:
    return {port: plain(_known(shape)) for port, shape in step.shapes.items()}


# Element by element -------------------------------------------------------------------------------------------------------------


def _elementwise(offset: Callable[[Step, list[Tensor], bool], str]) -> Callable[[Step], Tensor]:
    """offset(step, operands, whether a parameter follows): what makes the result differ from zero, or ""."""

    def operator(step: Step) -> Tensor:
        operands = [step.inputs[port] for port in sorted(step.inputs)]
        constants = [plain(_known(shape)) for shape in step.node.attrs.get("constants", ())]
        shape = step.shape(max(operands, key=lambda x: len(x.shape)) if operands else None)
        result = step.meet([*operands, *constants], shape)
        follows = False
        for parameter in step.node.parameters:
            first = len(shape) - len(parameter.shape)
            result, follows = step.follow(result, parameter, {at: first + at for at in range(len(parameter.shape))})
        if (result.ids < 0).all():
            return result
        return replace(result, offset=offset(step, operands, follows))

    return operator


def _is_zero(x: Tensor) -> bool:
    return not x.offset and bool((x.ids >= 0).any())


def _of_zeros(step: Step, operands: list[Tensor], follows: bool) -> str:
    """Zero where all operands are."""
    known = len(operands) + (len(step.node.parameters) if follows else 0)
    needed = 1 if step.node.op not in ("Add", "Sub") else 2
    broken = next((x.offset for x in operands if x.offset), "")
    return broken or ("" if known >= needed and all(map(_is_zero, operands)) else _not_zero(step))


def _of_factors(step: Step, operands: list[Tensor], follows: bool) -> str:
    """Zero where one operand is."""
    return "" if follows or any(map(_is_zero, operands)) else next((x.offset for x in operands if x.offset), _not_zero(step))


def _of_quotient(step: Step, operands: list[Tensor], follows: bool) -> str:
    denominators = operands[1:]
    return "" if _is_zero(operands[0]) and not any(map(_is_zero, denominators)) else _not_zero(step)


def _of_clip(step: Step, operands: list[Tensor], follows: bool) -> str:
    low, high = step.node.attrs.get("min"), step.node.attrs.get("max")
    inside = (low is None or low <= 0) and (high is None or high >= 0)
    return _of_zeros(step, operands, follows) if inside else _not_zero(step)


def _of_nothing(step: Step, operands: list[Tensor], follows: bool) -> str:
    return _not_zero(step)


def _not_zero(step: Step) -> str:
    return f"{step} does not make zeros of zeros, so that channels count even if all their weights are zero"


# Layers -------------------------------------------------------------------------------------------------------------------------


def _channel_axis(step: Step, rank: int, spatial: int | None = None) -> int:
    """The axis of the channels in a tensor. spatial: number of axes of the kernel, in channels-first layout behind the channels."""
    if "axis" in step.node.attrs:
        return step.node.attrs["axis"] % rank
    if step.node.attrs.get("data_format") == "channels_last":
        return rank - 1
    return 1 if spatial is None else rank - 1 - spatial


def _convolution(step: Step) -> Tensor:
    x, weight = step.inputs.get(0), step.node.parameter("weight")
    if x is None or weight is None or weight.channel_axis is None or weight.input_axis is None:
        raise _NotFollowed
    shape = step.shape(x)
    axis = _channel_axis(step, len(x.shape), len(weight.shape) - 2)
    x = step.together(x, [a for a in range(len(x.shape)) if a != axis], "mixes them")
    groups = step.node.attrs.get("groups", 1)
    if groups > 1:
        result = _by_groups(step, x, weight, axis, groups, shape)
    else:
        kept = {a: a for a in range(len(x.shape)) if a != axis}
        result = step.product(x, weight, {weight.input_axis: axis}, {weight.channel_axis: axis}, kept, shape)
    return step.follow(result, step.node.parameter("bias"), {0: axis})[0]


def _by_groups(step: Step, x: Tensor, weight: Parameter, axis: int, groups: int, shape: Shape) -> Tensor:
    """A grouped convolution does not mix groups: a whole group, inputs and outputs, is a unit (a depthwise one's, a channel)."""
    at = weight.input_axis if step.node.op == "ConvTranspose" else weight.channel_axis
    assert at is not None
    if axis not in x.varying:
        step.units.keep(weight, (at,))
        return Tensor(shape, x.ids)
    blocks = x.ids.reshape(groups, -1)
    whole = step.units.together(blocks, [1], f"{step} mixes them within its groups")
    own = step.units.of(step.node, weight, (at,), "follower")
    step.units.link(own.reshape(groups, -1), whole)
    step.units.block(np.where(whole < 0, own.reshape(groups, -1), -1), _STAYS)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return Tensor(shape, np.broadcast_to(whole, (groups, shape[axis] // groups)).reshape(sizes))


def _matmul(step: Step) -> Tensor:
    weight = step.node.parameter("weight")
    if weight is None:
        return _activations_product(step)
    x = step.x
    if weight.channel_axis is None or weight.input_axis is None or len(weight.shape) != 2:
        raise _NotFollowed
    axis = len(x.shape) - (2 if ops.weight_port(step.node) == 0 else 1)
    if axis < 0:
        raise _NotFollowed
    kept = {a: a for a in range(len(x.shape)) if a != axis}
    result = step.product(x, weight, {weight.input_axis: axis}, {weight.channel_axis: axis}, kept, step.shape(x))
    return _with_bias(step, result)


def _with_bias(step: Step, result: Tensor) -> Tensor:
    bias = step.node.parameter("bias")
    if bias is None:
        return result
    first = len(result.shape) - len(bias.shape)
    return step.follow(result, bias, {at: first + at for at in range(len(bias.shape))})[0]


def _activations_product(step: Step) -> Tensor:
    raise _NotFollowed


def _embedding(step: Step) -> Tensor:
    weight = step.node.parameter("weight")
    if weight is None or weight.channel_axis is None:
        raise _NotFollowed
    for indices in step.inputs.values():
        step.units.block(indices.ids, f"{step} looks rows up by them")
    shape = step.shape()
    return step.make(weight, {weight.channel_axis: len(shape) - 1}, shape)


def _batch_norm(step: Step) -> Tensor:
    x, shape = step.x, step.shape(step.x)
    axis = _channel_axis(step, len(shape))
    follows: dict[str, bool] = {}
    for parameter in step.node.parameters:
        x, follows[parameter.slot] = step.follow(x, parameter, {0: axis})
    if follows.get("weight"):
        return replace(x, offset="")
    return x if follows.get("mean") else replace(x, offset=_not_zero(step))


# Windows, reductions ------------------------------------------------------------------------------------------------------------


def _pool(step: Step) -> Tensor:
    """Pooling and resizing mix positions, not channels; a global one may drop the axes that it pools."""
    x = step.x
    last = step.node.attrs.get("data_format") == "channels_last"
    spatial = list(range(1, len(x.shape) - 1)) if last else list(range(2, len(x.shape)))
    x = step.together(x, spatial, "mixes them")
    shape = step.shape(x)
    ids = step.without(x, spatial)
    if len(shape) < len(x.shape):
        ids = ids.reshape([size for axis, size in enumerate(ids.shape) if axis not in spatial])
    return Tensor(shape, ids, x.offset)


def _pad(step: Step) -> Tensor:
    x, rank = step.x, len(step.x.shape)
    pads = step.attr("pads")
    widths = [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    if min(pads) < 0:
        raise _NotFollowed
    if any(any(widths[axis]) for axis in x.varying) and step.node.attrs.get("mode", "constant") != "constant":
        raise _NotFollowed  # mirrors channels
    ids = np.pad(x.ids, [width if axis in x.varying else (0, 0) for axis, width in enumerate(widths)], constant_values=-1)
    shape = tuple(size + sum(width) for size, width in zip(x.shape, widths, strict=True))
    return Tensor(shape, ids, _not_zero(step) if step.node.attrs.get("value") else x.offset)


def _mean(step: Step) -> Tensor:
    return _reduced(step, "takes their mean")


def _extremum(step: Step) -> Tensor:
    return _reduced(step, "compares them")


def _sum(step: Step) -> Tensor:
    x, axes = step.x, _axes(step)
    if set(x.varying) <= set(axes) and not x.offset:  # zeros do not count
        return _reduced(step, None)
    return _reduced(step, x.offset or "sums over them")


def _reduced(step: Step, why: str | None) -> Tensor:
    x, axes = step.x, _axes(step)
    if why is not None:
        x = step.together(x, axes, why)
    ids = step.without(x, axes)
    if not step.node.attrs.get("keepdims", 0):
        ids = ids.reshape([size for axis, size in enumerate(ids.shape) if axis not in axes])
        shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    else:
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    return Tensor(shape, ids, x.offset)


def _axes(step: Step) -> tuple[int, ...]:
    rank = len(step.x.shape)
    axes = step.node.attrs.get("axes", step.node.attrs.get("axis"))
    if axes is None:
        return tuple(range(rank))
    return tuple(axis % rank for axis in ((axes,) if isinstance(axes, int) else axes))


def _softmax(step: Step) -> Tensor:
    x = step.together(step.x, _axes(step), "normalises over them")
    return replace(x, offset=_not_zero(step))


# Layout -------------------------------------------------------------------------------------------------------------------------


def _reshape(step: Step) -> Tensor:
    x = step.x
    shape = _inferred(step.shapes[min(step.shapes)] if step.shapes else (), math.prod(x.shape))
    return Tensor(shape, _reshaped(x.ids, x.shape, shape), x.offset)


def _inferred(shape: Shape, size: int) -> Shape:
    """`shape` with its unknown dimensions 1, or one of them what is missing to `size` elements."""
    known = _known(shape)
    missing = math.prod(known)
    if missing != size:
        unknown = [axis for axis, length in enumerate(shape) if length < 0]
        if len(unknown) != 1 or size % missing:
            raise _NotFollowed
        known = tuple(size // missing if axis == unknown[0] else length for axis, length in enumerate(known))
    return known


def _reshaped(ids: np.ndarray, shape: Shape, new: Shape) -> np.ndarray:
    """numpy's reshape of the tensor that `ids` stands for, written out only for axes along which units vary."""
    before: list[int] = []
    after: list[int] = []
    i = j = 0
    while i < len(shape) or j < len(new):
        first, target, a, b = i, j, 1, 1
        if i < len(shape):
            a, i = shape[i], i + 1
        if j < len(new):
            b, j = new[j], j + 1
        while a != b:
            if a < b and i < len(shape):
                a, i = a * shape[i], i + 1
            elif j < len(new):
                b, j = b * new[j], j + 1
            else:
                raise _NotFollowed
        varies = any(size > 1 for size in ids.shape[first:i])
        before += shape[first:i] if varies else (1,) * (i - first)
        after += new[target:j] if varies else (1,) * (j - target)
    return collapsed(np.broadcast_to(ids, before).reshape(after))


def _transpose(step: Step) -> Tensor:
    x, perm = step.x, step.attr("perm")
    if sorted(perm) != list(range(len(x.shape))):
        raise _NotFollowed
    return Tensor(tuple(x.shape[axis] for axis in perm), x.ids.transpose(perm), x.offset)


def _concat(step: Step) -> Tensor:
    axis = step.attr("axis")
    parts = [step.inputs[port] for port in sorted(step.inputs)]
    rank = len(parts[0].shape)
    axis %= rank
    shape = step.shape(parts[0])
    if sum(x.shape[axis] for x in parts) != shape[axis]:
        raise _NotFollowed
    sizes = np.max([[1 if a == axis else size for a, size in enumerate(x.ids.shape)] for x in parts], axis=0)
    whole = []
    for x in parts:
        sizes[axis] = x.shape[axis]
        whole.append(np.broadcast_to(x.ids, sizes))
    offset = next((x.offset for x in parts if x.offset), "")
    return Tensor(shape, np.concatenate(whole, axis=axis), offset)


_ZEROS_OF_ZEROS = """Relu LeakyRelu PRelu Elu Selu Celu Gelu Swish Mish HardSwish Tanh Softsign ThresholdedRelu Identity Cast Dropout
Neg Abs Sqrt Erf Sin Sinh Tan Floor Ceil Round Sign Add Sub Sum Mean Max Min""".split()
_OTHER_ELEMENTWISE = """Sigmoid HardSigmoid Softplus Exp Log Cos Reciprocal Pow Mod Where Less LessOrEqual Greater GreaterOrEqual
Equal Not And Or Xor IsNaN""".split()

_OPERATORS: Mapping[str, Callable[[Step], Tensor | dict[int, Tensor]]] = {
    INPUT: _nothing,
    OUTPUT: _output,
    **dict.fromkeys(("Constant", "ConstantOfShape", "Range", "Shape"), _nothing),
    **dict.fromkeys(_ZEROS_OF_ZEROS, _elementwise(_of_zeros)),
    **dict.fromkeys(_OTHER_ELEMENTWISE, _elementwise(_of_nothing)),
    "Mul": _elementwise(_of_factors),
    "Div": _elementwise(_of_quotient),
    "Clip": _elementwise(_of_clip),
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("MatMul", "Gemm"), _matmul),
    "Gather": _embedding,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), _pool),
    "Pad": _pad,
    "ReduceMean": _mean,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp", "ArgMax", "ArgMin"), _extremum),
    **dict.fromkeys(("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _sum),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Concat": _concat,
}
