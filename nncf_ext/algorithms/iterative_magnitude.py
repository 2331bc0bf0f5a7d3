"""Iterative magnitude pruning: prune, train on, prune again (Han et al. 2015, Learning both Weights and Connections).

Weights are never re-initialized, and what is pruned never comes back. The standard deviation of a layer is that of the weights
that it still has: over all, it would fall from round to round, and the threshold with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training
from nncf_ext.algorithms.sparsity import BinaryMask, SparsityStatistics, sparsity_measures, summary_of_masks
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.channels.groups import ChannelGroup, channel_groups
from nncf_ext.channels.prunable import PrunableModel
from nncf_ext.config.iterative_magnitude import IterativeMagnitudeConfig
from nncf_ext.edits import Edit, Plan, Removal, Transform
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import Unreadable
from nncf_ext.files.schema import Count, Share
from nncf_ext.graph import Graph
from nncf_ext.ops import has_weight
from nncf_ext.schedules import Clock
from nncf_ext.sparsity.connections import densities
from nncf_ext.sparsity.selection import keep_largest

Masks = Mapping[str, np.ndarray]  # by the parameter's name


@dataclass(frozen=True)
class IterativeMagnitudeStatistics(SparsityStatistics):
    """rounds: prunings so far. dead_neurons: units (neurons, channels, heads) without a connection, which a strip takes out.
    dropout: rates by node, as they are now."""

    rounds: int
    dead_neurons: int
    dropout: Mapping[str, float]


class IterativeMagnitudeState(Remembered):
    """Rates of the dropout layers by node: the model's own, and as they are now."""

    rounds: Count
    frozen: bool
    dropout: dict[str, Share]
    dropout_now: dict[str, Share]


class IterativeMagnitude(IterativeMagnitudeConfig, Algorithm):
    """State: rounds (prunings so far), frozen, dropout and dropout_now (rates at the start and now, by node)."""

    remembers: ClassVar[type[Remembered]] = IterativeMagnitudeState
    family: ClassVar[str] = "sparsity"
    transforms: ClassVar[tuple[type[Transform], ...]] = (BinaryMask,)

    @property
    def needs_copy(self) -> bool:
        return self.params.remove_dead_neurons

    def plan(self, graph: Graph, target_device: str) -> Plan:
        plan = plan_weights(graph, self, self.algorithm, BinaryMask())
        self._levels(graph, plan.edits)  # a scope that matches nothing is told here
        return plan

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        params = self.params
        what = f"{params.sparsity_target:.0%} zeros" if params.quality is None else f"|w| below {params.quality} deviations"
        description = (
            f"{what} after {params.rounds} rounds" if params.quality is None else f"{what} goes in {params.rounds} rounds"
        )
        return summary_of_masks(graph, edits, lambda _: description, params.sparsity_target)

    def start(self) -> State:
        return {"rounds": 0, "frozen": False, "dropout": {}, "dropout_now": {}}

    def initialize(self, training: Training, state: State) -> State:
        rates = dict(training.attached.dropout()) if self.params.rescale_dropout else {}
        return {**state, "dropout": rates, "dropout_now": rates}

    def resume(self, training: Training, state: State) -> None:
        for node, rate in state["dropout_now"].items():
            training.attached.set_dropout(node, rate)

    def check_state(self, training: Training, state: State) -> None:
        super().check_state(training, state)
        known = training.attached.dropout()
        for key in ("dropout", "dropout_now"):
            odd = next((node for node in state[key] if node not in known), None)
            if odd is not None:
                raise Unreadable(f"{key}: {odd[:200]!r} is no dropout layer of the model")

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        params = self.params
        passed = clock.epoch - params.start_epoch
        due = 0 if passed < 0 else min(passed // params.epochs_per_round + 1, params.rounds)
        while state["rounds"] < due and not state["frozen"]:
            self._prune(training, state["rounds"])
            state = {**state, "rounds": state["rounds"] + 1, "dropout_now": self._rescaled(training, state)}
        return state

    def _prune(self, training: Training, number: int) -> None:
        """Round `number`, counted from 0."""
        xp, masks = training.xp, {}
        for edit, level in zip(training.edits, self._levels(training.graph, training.edits), strict=True):
            weight = xp.stop_gradient(training.attached.parameter(edit.site))
            mask = xp.cast_like(training.attached.variables(edit)["mask"], weight)
            kept = self._kept(xp, weight, mask, number, level)
            masks[training.graph.parameter_at(edit.site).name] = training.adapter.to_numpy(kept) * training.adapter.to_numpy(mask)
        if self.params.remove_dead_neurons:
            masks = without_dead(training.graph, masks)
        for edit in training.edits:
            mask = masks[training.graph.parameter_at(edit.site).name]
            if not mask.any():
                raise ConfigError(
                    f"{self.path()}: round {number + 1} leaves none of the {mask.size} weights of "
                    f"{edit.site.label}, expected at least one: ask for less, or leave it out with ignored_scopes"
                )
        for edit in training.edits:
            training.attached.assign(edit, "mask", masks[training.graph.parameter_at(edit.site).name] > 0)

    def _levels(self, graph: Graph, edits: Sequence[Edit]) -> list[float]:
        """Shares of zeros after the last round; 0 where `quality` decides."""
        shapes = {edit.site.label: graph.shape_of(edit.site) for edit in edits}
        target = self.params.sparsity_target or 0.0
        return [
            1 - d
            for d in densities(self.params.distribution, shapes, target, self.path("params.distribution"), self.validate_scopes)
        ]

    def _kept(self, xp: Any, weight: Any, mask: Any, number: int, level: float) -> Any:
        """1 where this round leaves a weight, of those that are left. level: after the last round."""
        size = math.prod(int(n) for n in weight.shape)
        if self.params.quality is not None:
            left = float(xp.sum(mask))
            mean = float(xp.sum(weight * mask)) / left
            deviation = math.sqrt(float(xp.sum(xp.square((weight - mean) * mask))) / left)
            return xp.cast_like(xp.abs(weight) >= self.params.quality * deviation, mask)
        share = (1 - level) ** ((number + 1) / self.params.rounds)  # 1 - (1-S)^(1/n) of the rest each time
        score = xp.reshape(xp.where(mask > 0, xp.abs(weight), xp.asarray(np.float32(-1), like=weight)), (-1,))
        keep = keep_largest(xp, score, max(size - round((1 - share) * size), 0))
        return xp.cast_like(xp.reshape(keep, tuple(weight.shape)), mask)

    def _rescaled(self, training: Training, state: State) -> dict[str, float]:
        rates = {}
        for node, rate in state["dropout"].items():
            share = self._connections_after(training, node)
            rates[node] = rate if share is None else rate * math.sqrt(share)
            training.attached.set_dropout(node, rates[node])
        return rates

    def _connections_after(self, training: Training, node: str) -> float | None:
        """Share of connections that the masked layers have that read the dropout's output first; None where there is none."""
        graph = training.graph
        found: list[str] = []
        frontier, seen = [edge.target for edge in graph.outputs_of.get(node, ())], set()
        while frontier:
            name = frontier.pop()
            if name in seen:
                continue
            seen.add(name)
            if has_weight(graph[name]):
                found.append(name)
            else:
                frontier.extend(edge.target for edge in graph.outputs_of.get(name, ()))
        masks = [training.variable(e, "mask") for e in training.edits if any(site.node in found for site in e.sites)]
        return sum(float(m.sum()) for m in masks) / sum(m.size for m in masks) if masks else None

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        return {**state, "frozen": frozen}

    def loss(self, training: Training, state: State) -> Any:
        """regularization_weight * sum of |w|, or of w^2, of the weights that are left."""
        if self.params.regularization is None or not training.edits:
            return None
        xp, terms = training.xp, []
        for edit in training.edits:
            weight = training.attached.parameter(edit.site)
            weight = weight * xp.cast_like(training.attached.variables(edit)["mask"], weight)
            terms.append(xp.sum(xp.abs(weight) if self.params.regularization == "l1" else xp.square(weight)))
        return self.params.regularization_weight * sum(terms[1:], terms[0])

    def removals(self, training: Training, state: State) -> tuple[Removal, ...]:
        """Neurons whose outputs nothing reads: without them the model computes the same."""
        if not self.params.remove_dead_neurons or not state["rounds"]:
            return ()
        masks = {training.graph.parameter_at(edit.site).name: training.variable(edit, "mask") for edit in training.edits}
        groups = _groups(training.graph)
        keep = [~_unread(training.graph, group, masks) for group in groups]
        return PrunableModel(training.graph, groups).removals([k if k.any() else _first(k) for k in keep])

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        return () if state["frozen"] or state["rounds"] >= self.params.rounds else ("epoch_step",)

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if not self.awaits(clock, state) or not training.edits:
            return None
        last = self.params.start_epoch + (self.params.rounds - 1) * self.params.epochs_per_round
        return f"found {state['rounds']} rounds, expected {self.params.rounds} from epoch {last} on"

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        if state["rounds"] == 0:
            return CompressionStage.UNCOMPRESSED
        done = state["rounds"] >= self.params.rounds
        return CompressionStage.FULLY_COMPRESSED if done else CompressionStage.PARTIALLY_COMPRESSED

    def report(self, training: Training, clock: Clock, state: State) -> IterativeMagnitudeStatistics:
        arrays = [training.variable(edit, "mask") for edit in training.edits]
        masks = {training.graph.parameter_at(edit.site).name: mask for edit, mask in zip(training.edits, arrays, strict=True)}
        dead = sum(int(_unread(training.graph, group, masks).sum()) for group in _groups(training.graph))
        return IterativeMagnitudeStatistics(
            **sparsity_measures(training, arrays),
            rounds=state["rounds"],
            dead_neurons=dead,
            dropout=dict(training.attached.dropout()),
        )


def without_dead(graph: Graph, masks: Masks) -> dict[str, np.ndarray]:
    """Masks in which a unit that no weight makes, or that no weight reads, has no weight at all; until there is none more."""
    masks = {name: mask.copy() for name, mask in masks.items()}
    groups = _groups(graph)
    while True:
        before = sum(int(mask.sum()) for mask in masks.values())
        for group in groups:
            dead = _unread(graph, group, masks) | _unmade(graph, group, masks)
            for member in group.members if dead.any() else ():
                name = graph.parameter_at(member.site).name
                if name in masks and member.role != "follower":
                    units = np.array(member.units)
                    masks[name][_at(masks[name], member.axis, (units >= 0) & dead[units])] = 0
        if sum(int(mask.sum()) for mask in masks.values()) == before:
            return masks


def _groups(graph: Graph) -> list[ChannelGroup]:
    return [group for group in channel_groups(graph) if group.blocked is None]


def _unread(graph: Graph, group: ChannelGroup, masks: Masks) -> np.ndarray:
    return _without(graph, group, masks, "input")


def _unmade(graph: Graph, group: ChannelGroup, masks: Masks) -> np.ndarray:
    return _without(graph, group, masks, "output")


def _without(graph: Graph, group: ChannelGroup, masks: Masks, role: str) -> np.ndarray:
    """Per unit: whether no weight in this role is left. A parameter that has no mask is there."""
    left = np.zeros(group.size, bool)
    for member in group.members:
        if member.role != role:
            continue
        mask = masks.get(graph.parameter_at(member.site).name)
        units = np.array(member.units)
        if mask is None:
            left[units[units >= 0]] = True
            continue
        lines = np.any(mask, axis=tuple(axis for axis in range(mask.ndim) if axis != member.axis))
        left[units[(units >= 0) & lines]] = True
    return ~left


def _at(mask: np.ndarray, axis: int, lines: np.ndarray) -> tuple[Any, ...]:
    return tuple(lines if a == axis else slice(None) for a in range(mask.ndim))


def _first(keep: np.ndarray) -> np.ndarray:
    """A layer keeps one unit at least."""
    keep = keep.copy()
    keep[0] = True
    return keep
