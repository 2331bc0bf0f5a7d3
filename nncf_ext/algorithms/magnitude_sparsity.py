"""Magnitude sparsity: the smallest weights are masked, to a level that a schedule raises (Zhu & Gupta 2017; NNCF 2.x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext.algorithms.algorithm import Algorithm, CompressionStage, State, Training
from nncf_ext.config.models import MagnitudeSparsityConfig
from nncf_ext.edits import MASK, Edit, Plan, Range, Transform, Var
from nncf_ext.graph import Graph, Site
from nncf_ext.ops import has_weight
from nncf_ext.schedules import Clock, exponential, multistep, polynomial
from nncf_ext.scopes import considered, select


class BinaryMask(Transform):
    """x * mask. The gradient reaches kept weights only; masked ones keep their value and may come back while masks change."""

    kind: Literal["mask"] = "mask"
    stage: ClassVar[int] = MASK

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"mask": Var(np.ones(shape, np.float32))}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x * xp.cast_like(variables["mask"], x)


@dataclass(frozen=True)
class LayerSparsity:
    name: str
    shape: tuple[int, ...]
    level: float
    share_of_weights: float


@dataclass(frozen=True)
class MagnitudeSparsityStatistics:
    """Levels are shares of zeros. `sparsity_level` counts all parameters of the layers known to the graph."""

    sparsity_level: float
    sparsity_level_for_layers: float
    target_sparsity_level: float
    layers: tuple[LayerSparsity, ...]


class MagnitudeSparsity(MagnitudeSparsityConfig, Algorithm):
    transforms: ClassVar[tuple[type[Transform], ...]] = (BinaryMask,)
    readings: ClassVar[tuple[str, ...]] = ("current_sparsity_level",)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        candidates = [node for node in graph.nodes if has_weight(node)]
        select([node.name for node in graph.nodes], self.ignored_scopes, self.target_scopes, self.validate_scopes, self.where)
        sites: dict[str, list[Site]] = {}
        skipped = []
        for node in candidates:
            weight = node.parameter("weight")
            assert weight is not None
            if considered(node.name, self.ignored_scopes, self.target_scopes):
                sites.setdefault(weight.name, []).append(Site(node.name, "weight"))
            else:
                skipped.append((node.name, "outside the scopes of magnitude_sparsity"))
        edits = tuple(Edit(tuple(shared), BinaryMask(), self.algorithm) for shared in sites.values())
        return Plan(edits, tuple(skipped))

    def start(self) -> State:
        return {"level": self.sparsity_init, "frozen": False, "scheduled": True}

    def initialize(self, training: Training, state: State) -> State:
        return self._mask(training, state, self.sparsity_init)

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        if state["frozen"]:
            return state
        if clock.epoch >= self.params.sparsity_freeze_epoch:
            return {**self._update(training, clock, state), "frozen": True}
        if self.params.update_per_optimizer_step and clock.epoch > 0 and self._epoch_length(clock):
            return state
        return self._update(training, clock, state)

    def step(self, training: Training, clock: Clock, state: State) -> State:
        if state["frozen"] or not self.params.update_per_optimizer_step or not self._epoch_length(clock):
            return state
        return self._update(training, clock, state)

    def compression_rate(self, training: Training, state: State) -> float:
        masks = [training.variable(edit, "mask") for edit in training.edits]
        return 1 - sum(float(mask.sum()) for mask in masks) / max(sum(mask.size for mask in masks), 1)

    def current_sparsity_level(self, training: Training, state: State) -> float:
        return self.compression_rate(training, state)

    def set_compression_rate(self, training: Training, state: State, rate: float) -> State:
        return {**self._mask(training, state, rate), "scheduled": False}

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        return {**state, "frozen": frozen}

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        if state["level"] >= self.target:
            return CompressionStage.FULLY_COMPRESSED
        return CompressionStage.UNCOMPRESSED if state["level"] == 0 else CompressionStage.PARTIALLY_COMPRESSED

    def report(self, training: Training, clock: Clock, state: State) -> MagnitudeSparsityStatistics:
        masks = [training.variable(edit, "mask") for edit in training.edits]
        total = sum(mask.size for mask in masks)
        parameters = {p.name: int(np.prod(p.shape)) for node in training.graph.nodes for p in node.parameters}
        layers = tuple(
            LayerSparsity(edit.site.node, mask.shape, 1 - float(mask.mean()), mask.size / total)
            for edit, mask in zip(training.edits, masks, strict=True)
        )
        zeros = sum(mask.size - int(mask.sum()) for mask in masks)
        return MagnitudeSparsityStatistics(
            zeros / max(sum(parameters.values()), 1), zeros / max(total, 1), state["level"], layers
        )

    @property
    def target(self) -> float:
        params = self.params
        return params.multistep_sparsity_levels[-1] if params.schedule == "multistep" else params.sparsity_target

    def level(self, epoch: float) -> float:
        """The schedule: share of zeros wanted after `epoch` epochs."""
        params = self.params
        if params.schedule == "multistep":
            return multistep(params.multistep_steps, params.multistep_sparsity_levels, epoch)
        if params.schedule == "exponential":
            return exponential(self.sparsity_init, params.sparsity_target, epoch, params.sparsity_target_epoch)
        return polynomial(
            self.sparsity_init, params.sparsity_target, epoch, params.sparsity_target_epoch, params.power, params.concave
        )

    def _epoch_length(self, clock: Clock) -> int | None:
        return self.params.steps_per_epoch or clock.steps_per_epoch

    def _update(self, training: Training, clock: Clock, state: State) -> State:
        """Masks after the schedule, which a level set by hand ends: then only which weights are masked is decided anew."""
        length = self._epoch_length(clock) if self.params.update_per_optimizer_step else None
        return self._mask(training, state, self.level(clock.progress(length)) if state["scheduled"] else state["level"])

    def _mask(self, training: Training, state: State, level: float) -> State:
        xp, attached = training.xp, training.attached
        weights = [xp.stop_gradient(attached.parameter(edit.site)) for edit in training.edits]
        masks = masks_at_level(
            xp, weights, level, self.params.weight_importance, self.params.sparsity_level_setting_mode == "global"
        )
        for edit, mask in zip(training.edits, masks, strict=True):
            attached.assign(edit, "mask", mask)
        return {**state, "level": level}


def masks_at_level(xp: Any, weights: Sequence[Any], level: float, importance: str, over_all: bool) -> list[Any]:
    """Masks (1 keep, 0 prune) with exactly round(level * n) zeros, over all weights together or in each by itself.

    importance: `abs` |w|, or `normed_abs` |w| / ||w||_2 with the norm of the whole tensor. Ties are pruned in index order.
    """
    if not weights:
        return []
    scores = []
    for weight in weights:
        score = xp.abs(weight)
        if importance == "normed_abs":
            norm = xp.sqrt(xp.sum(xp.square(weight)))
            score = score / xp.where(norm > 0, norm, xp.ones_like(norm))
        scores.append(xp.reshape(score, (-1,)))
    if not over_all:
        flat = [_keep_largest(xp, score, round(level * score.shape[0])) for score in scores]
    else:
        joined = xp.concatenate(scores)
        keep = _keep_largest(xp, joined, round(level * joined.shape[0]))
        ends = np.cumsum([0] + [int(score.shape[0]) for score in scores])
        flat = [keep[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]
    return [xp.cast_like(xp.reshape(keep, tuple(weight.shape)), weight) for keep, weight in zip(flat, weights, strict=True)]


def _keep_largest(xp: Any, score: Any, pruned: int) -> Any:
    """Boolean: not among the `pruned` smallest of the flat `score`."""
    if pruned == 0:
        return score == score
    threshold = xp.kth_smallest(score, pruned)
    below, tied = score < threshold, score == threshold
    spare = pruned - xp.sum(xp.cast_like(below, xp.asarray(np.int32(0))))
    rank = xp.cumsum(xp.cast_like(tied, xp.asarray(np.int32(0))))
    return ~(below | (tied & (rank <= spare)))
