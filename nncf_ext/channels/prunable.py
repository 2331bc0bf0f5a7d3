"""What can be pruned of a model: groups of coupled channels, which of their units are kept, and what the model then costs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from nncf_ext.channels.costs import Cost, CostModel
from nncf_ext.channels.groups import ChannelGroup, Member
from nncf_ext.edits import Removal
from nncf_ext.graph import Graph, Site
from nncf_ext.ops import channels_of

Keep = Sequence[np.ndarray]  # for each group a boolean per unit: whether it stays
_MULTIPLE = 8  # widths that processors like
_MOST = 0.9  # of a group's units may go when FLOPs decide


class PrunableModel:
    """`groups` of the model, of which any units but the last may go."""

    def __init__(self, graph: Graph, groups: Sequence[ChannelGroup]):
        self.graph, self.groups = graph, tuple(groups)
        self.costs = CostModel(graph)
        self.full = self.costs.cost({})
        self.steps = tuple(_MULTIPLE // math.gcd(_MULTIPLE, self._channels_of_a_unit(group)) for group in self.groups)

    def everything(self) -> list[np.ndarray]:
        return [np.ones(group.size, bool) for group in self.groups]

    def kept(self, keep: Keep) -> dict[tuple[str, int], np.ndarray]:
        """For every (parameter, axis) with channels of the groups: which indices stay."""
        found: dict[tuple[str, int], np.ndarray] = {}
        for group, units in zip(self.groups, keep, strict=True):
            for member in group.members:
                stays = np.append(units, True)[np.asarray(member.units)]  # unit -1 is the last: of no group
                key = (self.parameter(member.site), member.axis)
                found[key] = found[key] & stays if key in found else stays
        return found

    def cost(self, keep: Keep) -> Cost:
        return self.costs.cost({key: int((~stays).sum()) for key, stays in self.kept(keep).items()})

    def removals(self, keep: Keep) -> tuple[Removal, ...]:
        """What to take out of the parameters, each named once."""
        sites = {(self.parameter(m.site), m.axis): m.site for group in self.groups for m in reversed(group.members)}
        return tuple(
            Removal(sites[key], key[1], tuple(int(index) for index in np.flatnonzero(stays)))
            for key, stays in self.kept(keep).items()
            if not stays.all()
        )

    def _channels_of_a_unit(self, group: ChannelGroup) -> int:
        """The fewest that a layer makes for it: the channels of a head, or one."""
        numbers = []
        for member in group.members:
            if member.role == "output":
                node = self.graph[member.site.node]
                weight = self.graph.parameter_at(member.site)
                numbers.append(member.units.count(0) * channels_of(node, weight) // weight.shape[member.axis])
        return min(numbers)

    def elements(self, member: Member) -> int:
        """Numbers in the parameter of which a member is a dimension."""
        return math.prod(self.graph.shape_of(member.site))

    def parameter(self, site: Site) -> str:
        """Name of the parameter at a site."""
        return self.graph.parameter_at(site).name


def by_share(model: PrunableModel, scores: Sequence[np.ndarray], levels: Sequence[float]) -> list[np.ndarray]:
    """Every group loses its least important units, at most the share that is its level; multiples of 8 channels are left.

    n units of c channels leave ceil(n * (1 - level) / s) * s, with s = 8 / gcd(8, c), but at least s; n where there are fewer.
    """
    keep = []
    for group, step, score, level in zip(model.groups, model.steps, scores, levels, strict=True):
        left = min(max(math.ceil(round(group.size * (1 - level) / step, 9)), 1) * step, group.size)
        keep.append(_without(group.size, _ascending(score)[: group.size - left]))
    return keep


def same_share(model: PrunableModel, scores: Sequence[np.ndarray], level: float) -> list[np.ndarray]:
    """`by_share` with one level for all."""
    return by_share(model, scores, [level] * len(model.groups))


def same_share_levels(model: PrunableModel) -> list[float]:
    """The levels at which `same_share` changes, ascending from 0."""
    levels = {0.0}
    for group, step in zip(model.groups, model.steps, strict=True):
        levels |= {1 - left / group.size for left in range(step, group.size, step)}
    return sorted(levels)


def least_important(scores: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The `count` units with the smallest scores of all groups go, but none that is the last of its group."""
    return _prefix(scores, _order(scores, [len(score) - 1 for score in scores]), count)


def most_without_emptying(groups: Sequence[ChannelGroup]) -> int:
    """How many units `least_important` can take away."""
    return sum(group.size - 1 for group in groups)


def same_share_for_flops(model: PrunableModel, scores: Sequence[np.ndarray], flops: float) -> list[np.ndarray]:
    """`same_share` at the lowest level that leaves at most `flops`, or at the highest where none does."""
    levels = same_share_levels(model)
    enough = bisect_left(levels, True, key=lambda level: model.cost(same_share(model, scores, level)).flops <= flops)
    return same_share(model, scores, levels[min(enough, len(levels) - 1)])


def least_important_for_flops(model: PrunableModel, scores: Sequence[np.ndarray], flops: float) -> list[np.ndarray]:
    """Units go in the order of their scores, of each group at most nine in ten, until at most `flops` are left."""
    order = _order(scores, [math.floor(_MOST * len(score)) for score in scores])
    enough = bisect_left(range(len(order)), True, key=lambda count: model.cost(_prefix(scores, order, count)).flops <= flops)
    return _prefix(scores, order, enough)


def _ascending(score: np.ndarray) -> np.ndarray:
    return np.argsort(score, kind="stable")


def _without(size: int, units: np.ndarray) -> np.ndarray:
    keep = np.ones(size, bool)
    keep[units] = False
    return keep


def _order(scores: Sequence[np.ndarray], quotas: Sequence[int]) -> np.ndarray:
    """Rows (group, unit) by ascending score, of each group as many as its quota; equal scores by group, then unit."""
    places = [
        np.stack([np.full(quota, group), _ascending(score)[:quota]], axis=1)
        for group, (score, quota) in enumerate(zip(scores, quotas, strict=True))
    ]
    allowed = np.concatenate(places)
    return allowed[_ascending(np.concatenate([scores[group][rows[:, 1]] for group, rows in enumerate(places)]))]


def _prefix(scores: Sequence[np.ndarray], order: np.ndarray, count: int) -> list[np.ndarray]:
    first = order[:count]
    return [_without(len(score), first[first[:, 0] == group, 1]) for group, score in enumerate(scores)]
