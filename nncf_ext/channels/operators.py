"""What each ONNX operator does to the channels of its inputs: one pass of a model over numbers of units (see `channels.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nncf_ext import ops
from nncf_ext.channels.flow import STAYS, Labels, NotFollowed, Shape, Step, Tensor, is_zero, known, not_zero, plain
from nncf_ext.channels.recurrence import recurrent
from nncf_ext.channels.units import Units, collapsed
from nncf_ext.einsum import Equation, EquationError, labels, letters
from nncf_ext.graph import INPUT, OUTPUT, Graph, Parameter


def run(graph: Graph, units: Units) -> dict[tuple[str, int], np.ndarray]:
    """Execute `graph`, as far as its outputs depend on it. The ids of all tensors in it, by node and output port."""
    needed = _needed(graph)
    values: dict[tuple[str, int], Tensor] = {}
    for node in graph.nodes:
        for name in node.attrs.get("reads", ()):
            units.keep(name)
        if node.name not in needed:
            continue
        edges = graph.inputs_of.get(node.name, ())
        inputs = {edge.target_port: values.get((edge.source, edge.source_port)) or plain(known(edge.shape)) for edge in edges}
        shapes = {edge.source_port: edge.shape for edge in graph.outputs_of.get(node.name, ())}
        step = Step(node, inputs, shapes, units)
        try:
            made = _OPERATORS.get(node.op, _opaque)(step)
            results = made if isinstance(made, dict) else dict.fromkeys(shapes, made)
            if not all(_as_traced(results[port], shape) for port, shape in shapes.items()):
                raise NotFollowed
        except NotFollowed:
            results = _opaque(step)
        zeros = _zeros(step)
        for port, tensor in results.items():
            one = replace(tensor, ids=collapsed(tensor.ids)) if 0 not in tensor.shape else plain(tensor.shape)
            values[node.name, port] = replace(one, zeros=zeros)
    units.end()
    return {place: tensor.ids for place, tensor in values.items()}


def _zeros(step: Step) -> str:
    """What made the zeros that an operator makes or lays out; "" for any other operator."""
    if step.node.op == "ConstantOfShape":
        return step.node.name if step.node.attrs.get("value") == 0 else ""
    return step.inputs[0].zeros if step.node.op in _LAYS_OUT and 0 in step.inputs else ""


_LAYS_OUT = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Slice", "Split", "Gather")


def _as_traced(x: Tensor, shape: Shape) -> bool:
    """Whether the tensor has the shape that the trace shows, as far as that is known."""
    if not len(x.ids.shape) == len(x.shape) == len(shape):
        return False
    fits = all(n in (1, size) for n, size in zip(x.ids.shape, x.shape, strict=True))
    return fits and all(size < 0 or size == n for size, n in zip(shape, x.shape, strict=True))


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


def _opaque(step: Step) -> dict[int, Tensor]:
    """Nothing is known of the operator: what reaches it stays."""
    for x in step.inputs.values():
        step.units.block(x.ids, f"{step} may use them in any way")
    for parameter in step.node.parameters:
        step.units.keep(parameter.name)
    return _without_units(step)


def _without_units(step: Step) -> dict[int, Tensor]:
    return {port: plain(known(shape)) for port, shape in step.shapes.items()}


def _output(step: Step) -> dict[int, Tensor]:
    for x in step.inputs.values():
        step.units.block(x.ids, "they reach an output of the model")
    return {}


# Element by element -------------------------------------------------------------------------------------------------------------


def _elementwise(offset: Callable[[Step, list[Tensor], bool], str]) -> Callable[[Step], Tensor]:
    """offset(step, operands, whether the parameters lose what the result loses): what makes something else of zeros, or ""."""

    def operator(step: Step) -> Tensor:
        operands = [step.inputs[port] for port in sorted(step.inputs)]
        constants = [plain(known(shape)) for shape in step.node.attrs.get("constants", {}).values()]
        shape = step.shape(max(operands, key=lambda x: len(x.shape)) if operands else None)
        result = step.meet([*operands, *constants], shape)
        follows = True
        for parameter in step.node.parameters:
            result, does = step.follow(result, parameter, _aligned(parameter, shape))
            follows &= does
        if (result.ids < 0).all():
            return result
        return replace(result, offset=offset(step, operands, follows))

    return operator


def _aligned(parameter: Parameter, shape: Shape) -> dict[int, int]:
    """Axis of a tensor of `shape` by axis of a parameter that is broadcast to it, in numpy's way."""
    first = len(shape) - len(parameter.shape)
    return {at: first + at for at in range(len(parameter.shape))}


def _zeros_of_zeros(step: Step, operands: list[Tensor], follows: bool) -> str:
    """Zero where all operands are. A sum of one operand has a second one, a constant."""
    broken = next((x.offset for x in operands if x.offset), "")
    known = len(operands) + len(step.node.parameters)
    complete = known >= _OPERANDS.get(step.node.op, 1) and not step.node.attrs.get("constants")
    return broken or ("" if complete and follows and all(map(is_zero, operands)) else not_zero(step))


_OPERANDS = {"Add": 2, "Sub": 2, "Max": 2, "Min": 2}


def _zero_of_a_zero(step: Step, operands: list[Tensor], follows: bool) -> str:
    """Zero where one operand is."""
    if any(map(is_zero, operands)) or (follows and step.node.parameters):
        return ""
    return next((x.offset for x in operands if x.offset), not_zero(step))


def _zero_of_numerator(step: Step, operands: list[Tensor], follows: bool) -> str:
    numerator, *denominators = operands if 0 in step.inputs else [plain(()), *operands]
    safe = not any(map(is_zero, denominators)) and not (follows and step.node.parameters)
    return "" if is_zero(numerator) and safe else not_zero(step)


def _zero_within_limits(step: Step, operands: list[Tensor], follows: bool) -> str:
    low, high = step.node.attrs.get("min"), step.node.attrs.get("max")
    inside = (low is None or low <= 0) and (high is None or high >= 0)
    return _zeros_of_zeros(step, operands, follows) if inside else not_zero(step)


def _zero_to_the_power(step: Step, operands: list[Tensor], follows: bool) -> str:
    return _zeros_of_zeros(step, operands, follows) if step.node.attrs.get("exponent", 0) > 0 else not_zero(step)


def _never_zero(step: Step, operands: list[Tensor], follows: bool) -> str:
    return not_zero(step)


def _prelu(step: Step) -> Tensor:
    """torch's slope is per channel (axis 1), ONNX's and Keras' is broadcast."""
    x, slope = step.x, step.node.parameter("weight")
    if slope is None:
        raise NotFollowed
    per_channel = len(slope.shape) == 1 < len(x.shape) - 1
    return step.follow(x, slope, {0: 1} if per_channel else _aligned(slope, x.shape))[0]


# Layers -------------------------------------------------------------------------------------------------------------------------


def _convolution(step: Step) -> Tensor:
    x, weight = step.inputs.get(0), step.node.parameter("weight")
    if x is None or weight is None or weight.channel_axis is None or weight.input_axis is None:
        raise NotFollowed
    rank = len(x.shape)
    axis = rank - 1 if ops.is_channels_last(step.node) else rank - (len(weight.shape) - 1)
    shape = step.shape(x)
    spatial = [a for a in range(rank) if a != axis]
    x = step.together(x, spatial, "mixes them")
    groups = step.node.attrs.get("groups", 1)
    if groups > 1:
        result = _by_groups(step, x, weight, axis, groups, shape)
    elif set(x.varying) <= {axis}:
        step.consume(x, weight, {weight.input_axis: axis})
        result = step.make(weight, {weight.channel_axis: axis}, shape)
    else:
        raise NotFollowed
    return _with_bias(step, result, axis)


def _by_groups(step: Step, x: Tensor, weight: Parameter, axis: int, groups: int, shape: Shape) -> Tensor:
    """A grouped convolution does not mix groups: a whole group, inputs and outputs, is a unit (a depthwise one's, a channel)."""
    at = weight.input_axis if step.node.op == "ConvTranspose" else weight.channel_axis
    assert at is not None
    step.units.keep(weight.name, [a for a in range(len(weight.shape)) if a != at])
    if axis not in x.varying:
        step.units.keep(weight.name, [at])
        return Tensor(shape, x.ids, x.offset)
    whole = step.units.together(collapsed(x.ids.reshape(groups, -1)), [1], f"{step} mixes them within its groups")
    if whole.shape[1] > 1:  # the groups share their units
        raise NotFollowed
    own = step.units.of(step.node, weight, (at,), "follower").reshape(groups, -1)
    step.units.link(own, whole)
    step.units.block(np.where(whole < 0, own, -1), STAYS)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return Tensor(shape, np.broadcast_to(whole, (groups, shape[axis] // groups)).reshape(sizes))


def _with_bias(step: Step, result: Tensor, axis: int | None = None) -> Tensor:
    """axis: that the bias is along; None: it is broadcast. It may be an activation (torch's addmm)."""
    if 2 in step.inputs:
        sum_of = step.meet([result, step.inputs[2]], result.shape)
        return replace(sum_of, offset=_zeros_of_zeros(step, [result, step.inputs[2]], True))
    bias = step.node.parameter("bias")
    if bias is None:
        if 2 in step.node.attrs.get("constants", {}):
            raise NotFollowed
        return result
    result, follows = step.follow(result, bias, {0: axis} if axis is not None else _aligned(bias, result.shape))
    return result if follows or (result.ids < 0).all() else replace(result, offset=not_zero(step))


def _matmul(step: Step) -> Tensor:
    equation = step.node.attrs.get("equation")
    weight = step.node.parameter("weight")
    if equation is not None:
        return _einsum(step, equation, weight)
    if weight is None:
        a, b = step.inputs.get(0), step.inputs.get(1)
        if a is None or b is None or "axes" in step.node.attrs:  # a product over other axes
            raise NotFollowed
        first, second, out = _matmul_labels(len(a.shape), len(b.shape))
        return _with_bias(step, step.contract([(a, first), (b, second)], out))
    on_the_left = ops.weight_port(step.node) == 0
    x = step.inputs.get(1 if on_the_left else 0)
    if x is None or weight.channel_axis is None or weight.input_axis is None:
        raise NotFollowed
    if on_the_left:
        own, data, out = _matmul_labels(len(weight.shape), len(x.shape))
    else:
        data, own, out = _matmul_labels(len(x.shape), len(weight.shape))
    if weight.channel_axis < weight.input_axis and not on_the_left:  # (out, in)
        own = (*own[:-2], own[-1], own[-2])
    return _with_bias(step, step.product(x, data, weight, own, out, step.shape(x)))


def _matmul_labels(first: int, second: int) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Labels of the axes of two factors, of these ranks, and of their product."""

    def batch(rank: int) -> tuple[int, ...]:
        return tuple(range(-rank, -2))

    rows, columns = ("row",) if first > 1 else (), ("column",) if second > 1 else ()
    return (*batch(first), *rows, "sum"), (*batch(second), "sum", *columns), (*batch(max(first, second)), *rows, *columns)


def _einsum(step: Step, equation: str, weight: Parameter | None = None) -> Tensor:
    """Of one or two activations, or of an activation and a weight (EinsumDense), which is the second factor."""
    product = Equation.parse(equation)
    operands = [step.inputs[port] for port in sorted(step.inputs)]
    if len(product.factors) != len(operands) + (weight is not None):
        raise NotFollowed
    if weight is None:
        each = [_labels(factor, len(x.shape)) for factor, x in zip(product.factors, operands, strict=True)]
        if any(len(set(own)) < len(own) for own in each):
            raise NotFollowed
        further = max(sum(isinstance(label, int) for label in own) for own in each)
        out = _labels(product.output, len(letters(product.output)) + further)
        return step.contract(list(zip(operands, each, strict=True)), out)
    x = operands[0]
    shape = step.shape(x)
    own = _labels(product.factors[1], len(weight.shape))
    result = step.product(x, _labels(product.factors[0], len(x.shape)), weight, own, _labels(product.output, len(shape)), shape)
    return _with_bias(step, result)


def _labels(term: str, rank: int) -> Labels:
    try:
        return labels(term, rank)
    except EquationError:
        raise NotFollowed from None


def _attention(step: Step) -> Tensor:
    """softmax(Q K') V with axes (..., heads, length, channels); fewer key/value heads serve a group of query heads each."""
    if not {0, 1, 2} <= step.inputs.keys():
        raise NotFollowed
    q, k, v = (step.inputs[port] for port in (0, 1, 2))
    rank = len(q.shape)
    heads = step.node.attrs.get("head_axis", rank - 3)
    length = next(axis for axis in (rank - 2, rank - 3) if axis != heads)
    k, v = (_repeated_heads(x, heads, q.shape[heads]) for x in (k, v))

    def labels(position: str, channel: str) -> Labels:
        return tuple(position if axis == length else channel if axis == rank - 1 else axis for axis in range(rank))

    batch = tuple(axis for axis in range(rank - 1) if axis != length)
    scores = step.contract([(q, labels("query", "sum")), (k, labels("key", "sum"))], (*batch, "query", "key"))
    scores = step.meet([scores, *(x for port, x in step.inputs.items() if port > 2)], scores.shape)  # masks
    scores = step.together(replace(scores, offset=not_zero(step)), [rank - 1], "normalises over them")
    return step.contract([(scores, (*batch, "query", "key")), (v, labels("key", "value"))], labels("query", "value"))


def _repeated_heads(x: Tensor, axis: int, heads: int) -> Tensor:
    if heads % x.shape[axis]:
        raise NotFollowed
    times = heads // x.shape[axis]
    ids = np.repeat(x.ids, times, axis=axis) if axis in x.varying else x.ids
    return Tensor((*x.shape[:axis], heads, *x.shape[axis + 1 :]), ids, x.offset)


def _gather(step: Step) -> Tensor:
    weight = step.node.parameter("weight")
    if weight is not None and weight.channel_axis is not None:  # rows of a table
        for indices in step.inputs.values():
            step.units.block(indices.ids, f"{step} looks rows up by them")
        shape = step.shape()
        return step.make(weight, {weight.channel_axis: len(shape) - 1}, shape)
    axis, table = step.attr("axis"), step.node.parameter("operand")
    x = step.x if table is None or table.port == 1 else step.own(table, but=axis)  # position biases, by relative position
    axis %= len(x.shape)
    indices = step.node.attrs.get("indices")
    if indices is not None:
        ids = x.ids.take(indices, axis=axis) if axis in x.varying else x.ids
        return Tensor((*x.shape[:axis], len(indices), *x.shape[axis + 1 :]), ids, x.offset)
    x = step.together(x, [axis], "takes some of them, by position")
    if axis in x.varying:
        raise NotFollowed
    shape = step.shape()
    new = len(shape) - len(x.shape) + 1  # rank of the indices
    return Tensor(shape, x.ids.reshape((*x.ids.shape[:axis], *[1] * new, *x.ids.shape[axis + 1 :])), x.offset)


# Normalisation ------------------------------------------------------------------------------------------------------------------


def _batch_norm(step: Step) -> Tensor:
    """A scale of zero makes zeros; without a scale, a mean of zero does of zeros."""
    x = step.x
    rank = len(x.shape)
    named = step.node.attrs.get("axis", -1 if ops.is_channels_last(step.node) else min(1, rank - 1))
    axis = named % rank
    result, follows = _scaled_and_shifted(step, x, {0: axis})
    return result if {"weight", "mean"} & follows else replace(result, offset=not_zero(step))


def _instance_norm(step: Step) -> Tensor:
    return _batch_norm(step) if step.node.attrs.get("running_statistics") else _scaled_and_shifted(step, step.x, {0: 1})[0]


def _layer_norm(step: Step) -> Tensor:
    """Over `axis`: all axes from one on, or a tuple of them. The scale has the same axes."""
    x, rank = step.x, len(step.x.shape)
    axis = step.node.attrs.get("axis", -1)
    axes = range(axis % rank, rank) if isinstance(axis, int) else sorted(a % rank for a in axis)
    return _scaled_and_shifted(step, step.together(x, axes, _NORMALISES), dict(enumerate(axes)))[0]


def _group_norm(step: Step) -> Tensor:
    """Whole groups can go; in their own group the channels that stay would be normalised differently."""
    x, groups = step.x, step.attr("num_groups")
    rank = len(x.shape)
    axis = step.node.attrs.get("axis", 1) % rank
    x = step.together(x, [a for a in range(1, rank) if a != axis], _NORMALISES)
    if axis in x.varying:
        whole = step.units.together(collapsed(x.ids.reshape(groups, -1)), [1], f"{step} {_NORMALISES}")
        if whole.shape[1] == 1:
            x = replace(x, ids=np.broadcast_to(whole, (groups, x.shape[axis] // groups)).reshape(x.ids.shape))
    return _scaled_and_shifted(step, x, {0: axis})[0]


_NORMALISES = "normalises over them, and would do it differently with fewer"


def _scaled_and_shifted(step: Step, x: Tensor, axis_of: Mapping[int, int]) -> tuple[Tensor, set[str]]:
    """Per-channel parameters go along; the slots of those that do. A scale of zero makes zeros of anything."""
    follows: set[str] = set()
    for parameter in step.node.parameters:
        if len(parameter.shape) != len(axis_of):
            raise NotFollowed
        x, does = step.follow(x, parameter, axis_of)
        follows |= {parameter.slot} if does else set()
    if step.node.parameter("bias") is not None and "bias" not in follows:
        return replace(x, offset=not_zero(step)), follows
    return replace(x, offset="") if "weight" in follows else x, follows


def _lp_norm(step: Step) -> Tensor:
    """Zeros do not count in a norm: with fewer channels it is the same."""
    return step.together(step.x, _axes(step), step.x.offset) if step.x.offset else step.x


def _softmax(step: Step) -> Tensor:
    return replace(step.together(step.x, _axes(step), _NORMALISES), offset=not_zero(step))


def _along(step: Step) -> Tensor:
    """Cumulative sums, the largest, ...: positions along the axis count."""
    x, axes = step.x, _axes(step)
    x = step.together(x, axes, "counts them")
    if any(axis in axes for axis in x.varying):
        raise NotFollowed
    shape = step.shape(x)
    indices = [replace(index, ids=step.without(index, axes)) for index in list(step.inputs.values())[1:]]
    return replace(step.meet([replace(x, shape=shape), *indices], shape), offset=x.offset)


# Windows and reductions ---------------------------------------------------------------------------------------------------------


def _pool(step: Step) -> Tensor:
    """Pooling and resizing mix positions, not channels; a global one may drop the axes that it pools."""
    x = step.x
    spatial = list(range(1, len(x.shape) - 1)) if ops.is_channels_last(step.node) else list(range(2, len(x.shape)))
    x = step.together(x, spatial, "mixes them")
    if any(axis in spatial for axis in x.varying):
        raise NotFollowed
    shape = step.shape(x)
    ids = x.ids
    if len(shape) < len(x.shape):
        ids = ids.reshape([size for axis, size in enumerate(ids.shape) if axis not in spatial])
    return Tensor(shape, ids, x.offset)


def _mean(step: Step) -> Tensor:
    return _reduced(step, "takes their mean, which would be another of fewer")


def _extremum(step: Step) -> Tensor:
    return _reduced(step, "compares them")


def _sum(step: Step) -> Tensor:
    """Zeros do not count, as in a product with a weight."""
    ends = set(step.x.varying) <= set(_axes(step))
    return _reduced(step, "" if ends and not step.x.offset else step.x.offset or "sums over them")


def _reduced(step: Step, why: str) -> Tensor:
    x, axes = step.x, _axes(step)
    if why:
        x = step.together(x, axes, why)
    ids = step.without(x, axes)
    if step.node.attrs.get("keepdims", 0):
        return Tensor(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), ids, x.offset)
    rest = [axis for axis in range(len(x.shape)) if axis not in axes]
    return Tensor(tuple(x.shape[axis] for axis in rest), ids.reshape([ids.shape[axis] for axis in rest]), x.offset)


def _axes(step: Step) -> tuple[int, ...]:
    """`axes` or `axis` of a reduction; all where it states none."""
    rank = len(step.x.shape)
    axes = step.node.attrs.get("axes", step.node.attrs.get("axis"))
    if axes is None:
        return tuple(range(rank))
    return tuple(axis % rank for axis in ((axes,) if isinstance(axes, int) else axes))


def _pad(step: Step) -> Tensor:
    x, rank, pads = step.x, len(step.x.shape), step.attr("pads")
    widths = [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    grows = [axis for axis in x.varying if any(widths[axis])]
    if min(pads) < 0 or (grows and step.node.attrs.get("mode", "constant") != "constant"):  # crops or mirrors channels
        raise NotFollowed
    ids = np.pad(x.ids, [widths[axis] if axis in grows else (0, 0) for axis in range(rank)], constant_values=-1)
    shape = tuple(size + sum(width) for size, width in zip(x.shape, widths, strict=True))
    return Tensor(shape, ids, not_zero(step) if step.node.attrs.get("value") else x.offset)


def _packed(step: Step) -> dict[int, Tensor]:
    """Steps of sequences of several lengths, one after the other and back; the lengths come along."""
    x, shape = step.x, known(step.shapes[0])
    last = len(x.shape) - 1
    x = step.together(x, range(last), "mixes them")
    if set(x.varying) - {last}:
        raise NotFollowed
    ids = x.ids.reshape((1,) * (len(shape) - 1) + (-1,))
    return {**_without_units(step), 0: Tensor(shape, ids, not_zero(step) if step.node.attrs.get("value") else x.offset)}


# Layout -------------------------------------------------------------------------------------------------------------------------


def _reshape(step: Step) -> Tensor:
    x = step.x
    if not step.shapes:
        raise NotFollowed
    shape = _inferred(step.shapes[min(step.shapes)], math.prod(x.shape))
    return Tensor(shape, _reshaped(x.ids, x.shape, shape), x.offset)


def _flatten(step: Step) -> Tensor:
    if step.node.attrs.get("data_format") == "channels_first" and len(step.x.shape) > 2:
        raise NotFollowed  # Keras moves the channels to the end before
    return _reshape(step)


def _inferred(shape: Shape, size: int) -> Shape:
    """`shape` with its unknown dimensions 1, or one of them what is missing to `size` elements."""
    resolved = known(shape)
    have = math.prod(resolved)
    if have == size:
        return resolved
    unknown = [axis for axis, length in enumerate(shape) if length < 0]
    if len(unknown) != 1 or size % have:
        raise NotFollowed
    return tuple(size // have if axis == unknown[0] else length for axis, length in enumerate(resolved))


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
                raise NotFollowed
        varies = any(size > 1 for size in ids.shape[first:i])
        before += shape[first:i] if varies else (1,) * (i - first)
        after += new[target:j] if varies else (1,) * (j - target)
    return np.broadcast_to(ids, before).reshape(after)


def _transpose(step: Step) -> Tensor:
    x, perm = step.x, step.attr("perm")
    if sorted(perm) != list(range(len(x.shape))):
        raise NotFollowed
    return Tensor(tuple(x.shape[axis] for axis in perm), x.ids.transpose(perm), x.offset)


def _expand(step: Step) -> Tensor:
    x = step.x
    shape = step.shape(x)
    missing = (1,) * (len(shape) - len(x.shape))
    return Tensor(shape, x.ids.reshape(missing + x.ids.shape), x.offset)


def _tile(step: Step) -> Tensor:
    """numpy's tile, or its repeat along one `axis`, which with `new_axis` is not there yet."""
    x, repeats = step.x, step.attr("repeats")
    if "axis" in step.node.attrs:
        x = _with_axis(x, step.node.attrs["axis"]) if step.node.attrs.get("new_axis") else x
        axis = step.node.attrs["axis"] % len(x.shape)
        ids = np.repeat(x.ids, repeats, axis=axis) if axis in x.varying else x.ids
        return Tensor((*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :]), ids, x.offset)
    rank = max(len(repeats), len(x.shape))
    repeats = (1,) * (rank - len(repeats)) + tuple(repeats)
    missing = (1,) * (rank - len(x.shape))
    ids = x.ids.reshape(missing + x.ids.shape)
    shape = tuple(size * times for size, times in zip(missing + x.shape, repeats, strict=True))
    times = [n if size > 1 else 1 for size, n in zip(ids.shape, repeats, strict=True)]
    return Tensor(shape, np.tile(ids, times), x.offset)


def _slice(step: Step) -> Tensor:
    """`index` is numpy's, of slices, whole numbers, None and Ellipsis."""
    x = step.x
    index = tuple(step.attr("index"))
    named = sum(item is not None and item is not Ellipsis for item in index)
    if Ellipsis not in index:
        index = (*index, Ellipsis)
    at = index.index(Ellipsis)
    index = (*index[:at], *[slice(None)] * (len(x.shape) - named), *index[at + 1 :])
    whole: list[Any] = []
    axis = 0
    for item in index:
        if item is None:
            whole.append(None)
            continue
        whole.append(item if axis in x.varying else 0 if isinstance(item, int) else slice(None))
        axis += 1
    shape = np.broadcast_to(0, x.shape)[index].shape
    return Tensor(shape, x.ids[tuple(whole)], x.offset)


def _split(step: Step) -> dict[int, Tensor]:
    """Into parts of sizes `split`. `num_outputs` says that the code asks for that many equal parts, however long the axis is.

    Those must then lose the same channels each. keepdims 0: the parts, of size 1, lose the axis.
    """
    x = step.x
    axis, sizes = step.attr("axis") % len(x.shape), step.attr("split")
    if sum(sizes) != x.shape[axis]:
        raise NotFollowed
    parts = np.split(x.ids, np.cumsum(sizes)[:-1], axis=axis) if axis in x.varying else [x.ids] * len(sizes)
    if axis in x.varying and "num_outputs" in step.node.attrs:
        for part in parts[1:]:
            if part.shape != parts[0].shape:
                raise NotFollowed
            step.units.link(parts[0], part)
            step.units.block(np.where(part < 0, parts[0], np.where(parts[0] < 0, part, -1)), f"{step} splits into equal parts")
    made = {}
    for port, (size, ids) in enumerate(zip(sizes, parts, strict=True)):
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        if not step.node.attrs.get("keepdims", 1):
            shape, ids = shape[:axis] + shape[axis + 1 :], ids.squeeze(axis)
        made[port] = Tensor(shape, ids, x.offset)
    return made


def _concat(step: Step) -> Tensor:
    """Along `axis`, which with `new_axis` the parts do not have yet."""
    constants = {port: plain(known(shape)) for port, shape in step.node.attrs.get("constants", {}).items()}
    own = {parameter.port or 0: step.own(parameter) for parameter in step.node.parameters}
    parts = [part for _, part in sorted({**constants, **own, **step.inputs}.items())]
    parts = [x for x in parts if x.shape != (0,)] or parts[:1]  # an empty cache, which torch joins with tensors of any rank
    if not parts:
        return plain(step.shape())
    rank = len(parts[0].shape) + bool(step.node.attrs.get("new_axis"))
    axis = step.attr("axis") % rank
    if step.node.attrs.get("new_axis"):
        parts = [_with_axis(x, axis) for x in parts]
    shape = (*parts[0].shape[:axis], sum(x.shape[axis] for x in parts), *parts[0].shape[axis + 1 :])
    if any(size >= 0 and size != shape[at] for at, size in enumerate(step.shapes.get(0, shape))):
        raise NotFollowed  # a part is not in the graph
    parts = [x for x in parts if x.shape[axis]] or parts[:1]
    offset = next((x.offset for x in parts if x.offset), "")
    if all(axis not in x.varying for x in parts) and any(x.varying for x in parts):  # not along the channels
        one = [replace(x, shape=(*x.shape[:axis], 1, *x.shape[axis + 1 :])) for x in parts]
        return replace(step.meet(one, one[0].shape), shape=shape, offset=offset)
    sizes = np.max([x.ids.shape for x in parts], axis=0)
    written = [np.broadcast_to(x.ids, [x.shape[a] if a == axis else size for a, size in enumerate(sizes)]) for x in parts]
    return Tensor(shape, np.concatenate(written, axis=axis), offset)


def _with_axis(x: Tensor, axis: int) -> Tensor:
    return Tensor((*x.shape[:axis], 1, *x.shape[axis:]), np.expand_dims(x.ids, axis), x.offset)


def _depth_to_space(step: Step) -> Tensor:
    """A channel of the result takes blocksize^2 of the input: neighbours (`mode` CRD, torch) or far ones (DCR, TensorFlow)."""
    x, block = step.x, step.attr("blocksize") ** 2
    axis = len(x.shape) - 1 if ops.is_channels_last(step.node) else len(x.shape) - 3
    if axis in x.varying:
        crd = step.node.attrs.get("mode", "DCR") == "CRD"
        blocks = collapsed(x.ids.reshape((-1, block) if crd else (block, -1)))
        one = step.units.together(blocks, [1 if crd else 0], f"{step} puts them side by side")
        if one.shape[1 if crd else 0] > 1:
            raise NotFollowed
        x = replace(x, ids=one.reshape([-1 if a == axis else 1 for a in range(len(x.shape))]))
    return Tensor(step.shape(), x.ids, x.offset)


def _space_to_depth(step: Step) -> Tensor:
    x, block = step.x, step.attr("blocksize") ** 2
    axis = len(x.shape) - 1 if ops.is_channels_last(step.node) else len(x.shape) - 3
    ids = x.ids
    if axis in x.varying:
        crd = step.node.attrs.get("mode", "DCR") == "CRD"
        ids = np.repeat(ids, block, axis=axis) if crd else np.concatenate([ids] * block, axis=axis)
    return Tensor(step.shape(), ids, x.offset)


_KEEP_ZEROS = """Identity Cast Dropout Add Sub Sum Mean Max Min Relu LeakyRelu Elu Selu Celu Gelu Swish Mish HardSwish Tanh
Softsign Neg Abs Sqrt Erf Sin Sinh Tan Floor Ceil Round Sign"""
_DO_NOT = """Sigmoid HardSigmoid Softplus Exp Log Cos Reciprocal Mod Where Less LessOrEqual Greater GreaterOrEqual Equal Not And
Or Xor IsNaN ThresholdedRelu Trilu"""

_OPERATORS: Mapping[str, Callable[[Step], Tensor | dict[int, Tensor]]] = {
    INPUT: _without_units,
    OUTPUT: _output,
    **dict.fromkeys(("Constant", "ConstantOfShape", "Range", "Shape", "OneHot"), _without_units),
    **dict.fromkeys(_KEEP_ZEROS.split(), _elementwise(_zeros_of_zeros)),
    **dict.fromkeys(_DO_NOT.split(), _elementwise(_never_zero)),
    "Mul": _elementwise(_zero_of_a_zero),
    "Div": _elementwise(_zero_of_numerator),
    "Pow": _elementwise(_zero_to_the_power),
    "Clip": _elementwise(_zero_within_limits),
    "PRelu": _prelu,
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("MatMul", "Gemm"), _matmul),
    "Einsum": lambda step: _einsum(step, step.attr("equation")),
    "Attention": _attention,
    **dict.fromkeys(ops.RECURRENT, recurrent),
    "Gather": _gather,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer_norm),
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("CumSum", "TopK", "GatherElements"), _along),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), _pool),
    **dict.fromkeys(("PackSequence", "PadSequence"), _packed),
    "ReduceMean": _mean,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp", "ArgMax", "ArgMin"), _extremum),
    **dict.fromkeys(("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _sum),
    "Pad": _pad,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
