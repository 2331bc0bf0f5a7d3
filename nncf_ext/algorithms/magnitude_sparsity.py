"""Magnitude sparsity: the smallest weights are masked, to a level that a schedule raises (Zhu & Gupta 2017; NNCF 2.x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nncf_ext import numpy_xp
from nncf_ext.algorithm import State, Training
from nncf_ext.algorithms.sparsity import BinaryMask, ScheduledSparsity, SparsityStatistics, sparsity_measures
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.config.sparsity import MagnitudeSparsityConfig
from nncf_ext.edits import Plan, Transform
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock
from nncf_ext.sparsity.selection import keep_largest


@dataclass(frozen=True)
class LayerThreshold:
    """threshold: the largest importance of a weight that is masked; 0 where none is."""

    name: str
    threshold: float


@dataclass(frozen=True)
class MagnitudeSparsityStatistics(SparsityStatistics):
    target_sparsity_level: float
    thresholds: tuple[LayerThreshold, ...]


class MagnitudeSparsity(MagnitudeSparsityConfig, ScheduledSparsity):
    transforms: ClassVar[tuple[type[Transform], ...]] = (BinaryMask,)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        return plan_weights(graph, self, self.algorithm, BinaryMask())

    def masks(self, training: Training) -> list[np.ndarray]:
        return [training.variable(edit, "mask") for edit in training.edits]

    def follow(self, training: Training, state: State) -> None:
        """Masks at the levels: over all layers that have none of their own together (`global`), else in each by itself."""
        xp, attached = training.xp, training.attached
        weights = [xp.stop_gradient(attached.parameter(edit.site)) for edit in training.edits]
        alone = [level is not None for level in self.own_levels(training, state)]
        if self.params.sparsity_level_setting_mode == "local":
            alone = [True] * len(weights)
        importance = self.params.weight_importance
        together = masks_at_level(xp, [w for w, a in zip(weights, alone, strict=True) if not a], state["level"], importance, True)
        for edit, weight, by_itself, level in zip(training.edits, weights, alone, self.levels(training, state), strict=True):
            mask = masks_at_level(xp, [weight], level, importance, False)[0] if by_itself else together.pop(0)
            attached.assign(edit, "mask", mask)

    def report(self, training: Training, clock: Clock, state: State) -> MagnitudeSparsityStatistics:
        masks = self.masks(training)
        thresholds = []
        for edit, mask in zip(training.edits, masks, strict=True):
            weight = training.adapter.to_numpy(training.attached.parameter(edit.site))
            gone = _importance(numpy_xp, weight, self.params.weight_importance)[mask == 0]
            thresholds.append(LayerThreshold(edit.site.label, float(gone.max()) if gone.size else 0.0))
        return MagnitudeSparsityStatistics(
            **sparsity_measures(training, masks), target_sparsity_level=state["level"], thresholds=tuple(thresholds)
        )


def masks_at_level(xp: Any, weights: Sequence[Any], level: float, importance: str, over_all: bool) -> list[Any]:
    """Masks (1 keep, 0 prune) with exactly round(level * n) zeros, over all weights together or in each by itself.

    importance: `abs` |w|, or `normed_abs` |w| / ||w||_2 with the norm of the whole tensor. Ties are pruned in index order.
    """
    if not weights:
        return []
    scores = [xp.reshape(_importance(xp, weight, importance), (-1,)) for weight in weights]
    if not over_all:
        flat = [keep_largest(xp, score, score.shape[0] - round(level * score.shape[0])) for score in scores]
    else:
        joined = xp.concatenate(scores)
        keep = keep_largest(xp, joined, joined.shape[0] - round(level * joined.shape[0]))
        ends = np.cumsum([0] + [int(score.shape[0]) for score in scores])
        flat = [keep[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]
    return [xp.cast_like(xp.reshape(keep, tuple(weight.shape)), weight) for keep, weight in zip(flat, weights, strict=True)]


def _importance(xp: Any, weight: Any, importance: str) -> Any:
    score = xp.abs(weight)
    if importance == "normed_abs":
        norm = xp.sqrt(xp.sum(xp.square(weight)))
        score = score / xp.where(norm > 0, norm, xp.ones_like(norm))
    return score
