"""What operators can do with units (see `channels.py`): join them, pass them on, end them, make new ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nncf_ext.channels.units import Units, collapsed
from nncf_ext.graph import Node, Parameter

Shape = tuple[int, ...]
Labels = Sequence[Hashable]  # of the axes of a tensor in an Einstein sum


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model. An unknown dimension (the batch, a length) counts as 1.

    ids: the unit that each element belongs to, -1 for none; of the tensor's rank, with size 1 along axes where it does not vary.
    offset: what makes elements differ from zero although all parameters of their unit are zero ("" where they are zero).
    zeros: the operator that made it, where it is nothing but zeros that the model makes and has laid out since.
    """

    shape: Shape
    ids: np.ndarray
    offset: str = ""
    zeros: str = ""

    @property
    def varying(self) -> tuple[int, ...]:
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)


def plain(shape: Shape) -> Tensor:
    """A tensor without units."""
    return Tensor(shape, np.full((1,) * len(shape), -1))


def known(shape: Shape) -> Shape:
    return tuple(1 if size < 0 else size for size in shape)


class NotFollowed(Exception):
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
        """The main input, which may be a parameter."""
        for port in sorted(self.inputs):
            return self.inputs[port]
        return self.own(self.node.parameter("operand"))

    def attr(self, name: str) -> Any:
        if name not in self.node.attrs:
            raise NotFollowed
        return self.node.attrs[name]

    def shape(self, like: Tensor | None = None) -> Shape:
        """Shape of the output; what the trace does not know of it is as in `like`, which has the same rank."""
        if not self.shapes:
            raise NotFollowed
        traced = self.shapes[min(self.shapes)]
        if like is None or len(like.shape) != len(traced):
            return known(traced)
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
        if any(parameter.shape[at] not in (1, x.shape[axis]) for at, axis in axis_of.items()):
            raise NotFollowed
        axis_of = {at: axis % len(x.shape) for at, axis in axis_of.items() if parameter.shape[at] > 1}
        met = {axis: at for at, axis in axis_of.items() if axis in x.varying}
        if len(met) < len(x.varying):
            self.units.keep(parameter.name, axis_of)
            return self.together(x, met, why or "has the same values for all of them"), False
        axes = tuple(sorted(met.values()))
        if not axes:
            self.units.keep(parameter.name, axis_of)
            return x, False
        own = self.units.of(self.node, parameter, axes, "follower")
        order = [axis_of[at] for at in axes]
        theirs = x.ids.transpose(order + [axis for axis in range(len(x.shape)) if axis not in order]).reshape(own.shape)
        self.units.link(own, theirs)
        self.units.block(np.where(theirs < 0, own, -1), STAYS)
        return x, True

    def own(self, parameter: Parameter | None, but: int | None = None) -> Tensor:
        """A parameter as a tensor (a class token), which goes along with what it meets; not along axis `but`."""
        if parameter is None:
            raise NotFollowed
        axes = tuple(axis for axis, size in enumerate(parameter.shape) if size > 1 and axis != but)
        if len(axes) != 1:
            self.units.keep(parameter.name)
            return plain(parameter.shape)
        ids = self.units.of(self.node, parameter, axes, "follower")
        return Tensor(parameter.shape, ids.reshape([size if axis in axes else 1 for axis, size in enumerate(parameter.shape)]))

    def meet(self, tensors: Sequence[Tensor], shape: Shape) -> Tensor:
        """Tensors that are combined element by element, with numpy's broadcasting, have the same units at the same places."""
        if any(len(x.shape) > len(shape) for x in tensors):  # no broadcasting: one is there for its type or size only
            raise NotFollowed
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
        if any(parameter.shape[at] != x.shape[axis] for at, axis in axis_of.items()):
            raise NotFollowed
        own = self.units.of(self.node, parameter, axes, "input")
        if any(axis_of[at] in x.varying for at in axes):
            order = [axis_of[at] for at in axes]
            one = x.ids.transpose(order + [a for a in range(len(x.shape)) if a not in order])
            theirs = np.broadcast_to(one.reshape(one.shape[: len(axes)]), own.shape)
        else:
            theirs = np.broadcast_to(x.ids.max(), own.shape)
        self.units.link(own, theirs)
        self.units.block(np.where(theirs < 0, own, -1), STAYS)
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

    def contract(self, operands: Sequence[tuple[Tensor, Labels]], out: Labels) -> Tensor:
        """Einstein sum of activations. What is summed over is one unit: an attention head, where units vary along others too."""
        sizes = {label: size for x, labels in operands for label, size in zip(labels, x.shape, strict=True)}
        laid = []
        for x, labels in operands:
            summed = [axis for axis, label in enumerate(labels) if label not in out]
            x = self.together(x, summed, "multiplies them with another activation")
            laid.append(_laid_out(replace(x, ids=self.without(x, summed)), labels, out))
        result = self.meet(laid, tuple(sizes[label] for label in out))
        offset = next((x.offset for x in laid if x.offset), not_zero(self))
        return replace(result, offset="" if any(map(is_zero, laid)) else offset)

    def product(self, x: Tensor, labels: Labels, weight: Parameter, own: Labels, out: Labels, shape: Shape) -> Tensor:
        """Einstein sum of an activation and a weight, which ends the units that it sums over and makes new ones.

        labels, own, out: of the axes of `x`, of the weight and of the result.
        """
        summed = {at: labels.index(label) for at, label in enumerate(own) if label in labels and label not in out}
        made = {at: out.index(label) for at, label in enumerate(own) if label in out}
        alone = (set(labels) - set(own) - set(out)) | (set(own) - set(labels) - set(out)) | (set(out) - set(labels) - set(own))
        if alone or any(len(set(each)) < len(each) for each in (labels, own, out)):
            raise NotFollowed
        if set(x.varying) - set(summed.values()):  # units along other axes, like attention heads
            x = self.together(x, summed.values(), "sums over them")
        if not set(x.varying) - set(summed.values()):
            self.consume(x, weight, summed)
            return self.make(weight, made, shape)
        shared = {at: labels.index(label) for at, label in enumerate(own) if label in labels and label in out}
        x, _ = self.follow(x, weight, shared)
        self.units.keep(weight.name, [at for at in range(len(own)) if at not in shared])
        return replace(_laid_out(x, labels, out), shape=shape)


def _laid_out(x: Tensor, labels: Labels, out: Labels) -> Tensor:
    """`x` with axes `out`: of size 1 where it has none, and without its others (along which units do not vary)."""
    kept = sorted((axis for axis, label in enumerate(labels) if label in out), key=lambda axis: out.index(labels[axis]))
    dropped = [axis for axis in range(len(labels)) if axis not in kept]
    new = [axis for axis, label in enumerate(out) if label not in labels]
    ids = x.ids.transpose(kept + dropped).reshape([x.ids.shape[axis] for axis in kept])
    shape = [x.shape[axis] for axis in kept]
    for axis in new:
        shape.insert(axis, 1)
    return Tensor(tuple(shape), np.expand_dims(ids, new), x.offset)


STAYS = "a layer that shares the parameter keeps them"


def not_zero(step: Step) -> str:
    return f"{step} does not make zeros of zeros, so that channels count even if all their weights are zero"


def is_zero(x: Tensor) -> bool:
    """Whether `x` has units, and is zero where all parameters of a unit are."""
    return not x.offset and bool((x.ids >= 0).any())


def _aligned(x: Tensor, rank: int) -> Tensor:
    missing = (1,) * (rank - len(x.shape))
    return Tensor(missing + x.shape, x.ids.reshape(missing + x.ids.shape), x.offset)
