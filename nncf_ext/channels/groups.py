"""Which channels of a model have to go together when one of them is removed: what structured pruning may take out.

The model is executed on numbers of units instead of values (`channel_operators.py`). Every output channel of a layer is a unit;
operators join units (an addition does, channel by channel), pass them on, or end them (a kernel has an input slice for each).
A unit thus is a set of slices of parameters. While all its `output` and `follower` slices are zero, everything that the unit
makes is zero until `input` slices multiply it: removing all slices of a unit that is not blocked gives the outputs that zeroing
them gives. Coupled groups are the idea of Fang et al. 2023 (DepGraph, arXiv:2301.12900), section 3.

Units that are laid out along several axes of one tensor go in whole slices, and so do those that a layer normalises or
multiplies with each other: a head of an attention, a group of a grouped convolution or of a group norm. A layer norm over all
channels blocks them, because it would compute something else of fewer.

What the analysis cannot see are sizes in the model's code (`x.view(n, 4, 16)`, `x[:, :64]`, `groups`, `num_groups`). Who removes
channels changes those as well, or finds out by running the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from nncf_ext.channels.operators import run
from nncf_ext.channels.units import Dimension, Role, Units
from nncf_ext.edits import Removal
from nncf_ext.graph import Graph, Site


@dataclass(frozen=True)
class Member:
    """One dimension of a parameter whose entries belong to units of a group.

    site: where the parameter is used first; other nodes may read it too (they show the same `Parameter.name`).
    units: per index along `axis` the unit that it belongs to; -1: not of this group (another part of a concatenation).
    role: `output` makes the channels (a convolution's kernel, along its output channels); `input` consumes them;
        `follower` goes along (a bias, a norm's scale, shift and statistics, a depthwise kernel, a positional embedding).
    """

    site: Site
    axis: int
    units: tuple[int, ...]
    role: Role


@dataclass(frozen=True)
class ChannelGroup:
    """Units that are made and consumed by the same parameters, and can be removed independently of each other.

    name: of the node that makes the channels first. members: in execution order.
    blocked: why no unit of it can be removed without changing what the model computes, or None.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    blocked: str | None = None


def channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    """All groups of coupled channels, in execution order. Channels that no parameter makes (the model's inputs) are in none."""
    units, _ = _joined(graph)
    return tuple(_groups(units))


def channels_left(graph: Graph, removals: Iterable[Removal]) -> dict[tuple[str, int], tuple[int, np.ndarray]]:
    """What `removals` leave of the activations: by node and output port, the axis that gets shorter and the indices that stay.

    Tensors that stay as they are are not in it. It tells what becomes of sizes in a model's code: of the target of a reshape, the
    places of a split.
    """
    units, tensors = _joined(graph)
    keep: dict[tuple[str, int], list[int]] = {}
    for removal in removals:
        parameter = graph[removal.site.node].parameter(removal.site.slot)
        if parameter is not None:
            keep[parameter.name, removal.axis] = list(removal.keep)
    gone = np.zeros(units.number + 1, dtype=bool)  # the last one is for index -1, which is no unit
    for dimension in units.dimensions():
        axis, ids = _along_one_axis(dimension)
        parameter = graph[dimension.site.node].parameter(dimension.site.slot)
        if parameter is not None and (parameter.name, axis) in keep:
            gone[np.delete(ids, keep[parameter.name, axis])] = True
    gone[-1] = False
    left = {}
    for place, ids in tensors.items():
        if gone[ids].any():
            axis = max(range(ids.ndim), key=lambda axis: ids.shape[axis])
            left[place] = (axis, np.flatnonzero(~gone[ids.reshape(-1)]))
    return left


def _joined(graph: Graph) -> tuple[Units, dict[tuple[str, int], np.ndarray]]:
    """The units of a model, and the ids of its tensors: each varies along one axis at most."""
    units = Units()
    while True:
        units.begin()
        tensors = run(graph, units)
        if not units.join() and not _made_rectangular(units, tensors.values()):
            return units, tensors


def _made_rectangular(units: Units, tensors: Iterable[np.ndarray]) -> bool:
    """Join units such that a tensor without one of them is still a tensor; whether there was something to join.

    Where channels vary along several axes of a tensor (a reshape of them to (groups, channels of a group)), what goes is a whole
    slice. It goes along the axis with more of them: channel shuffle takes the same channels out of each group.
    """
    for ids in (*tensors, *(dimension.ids for dimension in units.dimensions())):
        varying = [axis for axis, size in enumerate(ids.shape) if size > 1]
        if len(varying) > 1:
            kept = max(varying, key=lambda axis: ids.shape[axis])
            units.together(ids, [axis for axis in varying if axis != kept], "its channels are laid out in several dimensions")
            return units.join()
    return False


def _groups(units: Units) -> Iterator[ChannelGroup]:
    """Units with the same members, as often in each, and with the same reason, are a group."""
    dimensions = [(dimension, *_along_one_axis(dimension)) for dimension in units.dimensions()]
    kinds, made = _kinds(units, [(dimension.role, ids) for dimension, _, ids in dimensions])
    group_of = np.full(units.number + 1, -1)  # the last one is for index -1, which is no unit
    number_of = np.full(units.number + 1, -1)
    groups: dict[tuple[int, str | None], list[int]] = {}  # (kind, reason) -> units
    for _, _, ids in dimensions:
        for unit in dict.fromkeys(ids[(ids >= 0) & (group_of[ids] < 0)].tolist()):
            if made[unit]:
                key = (int(kinds[unit]), units.reasons.get(unit))
                members = groups.setdefault(key, [])
                group_of[unit] = group_of[members[0]] if members else len(groups) - 1
                number_of[unit] = len(members)
                members.append(unit)

    members_of: list[list[Member]] = [[] for _ in groups]
    for dimension, axis, ids in dimensions:
        for group in dict.fromkeys(group_of[ids].tolist()):
            if group >= 0:
                numbers = np.where(group_of[ids] == group, number_of[ids], -1)
                members_of[group].append(Member(dimension.site, axis, tuple(numbers.tolist()), dimension.role))

    names: Counter[str] = Counter()
    for (_, reason), of_group, members in zip(groups, groups.values(), members_of, strict=True):
        name = next(member.site.node for member in members if member.role == "output")
        names[name] += 1
        if reason is None and len(of_group) == 1:
            reason = "all of its channels would have to go at once"
        yield ChannelGroup(f"{name}#{names[name]}" if names[name] > 1 else name, len(of_group), tuple(members), reason)


def _kinds(units: Units, dimensions: list[tuple[Role, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """By unit: a number that is the same for units that occur in the same dimensions, as often; whether a layer makes it."""
    kinds = np.zeros(units.number, dtype=np.int64)
    made = np.zeros(units.number, dtype=bool)
    number = 1
    for role, ids in dimensions:
        found, counts = np.unique(ids[ids >= 0], return_counts=True)
        _, kind = np.unique(kinds[found] * (counts.max(initial=0) + 1) + counts, return_inverse=True)
        kinds[found] = number + kind
        number += len(found)
        made[found] |= role == "output"
    return kinds, made


def _along_one_axis(dimension: Dimension) -> tuple[int, np.ndarray]:
    """The axis of the parameter along which the units vary, and the unit at each index along it."""
    sizes = dimension.ids.shape
    place = max(range(len(sizes)), key=lambda i: sizes[i])
    ids = np.broadcast_to(dimension.ids, [dimension.shape[i] if i == place else 1 for i in range(len(sizes))])
    return dimension.axes[place], ids.reshape(-1)
