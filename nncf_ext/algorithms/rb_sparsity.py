"""Regularization-based sparsity (NNCF 2.x `rb_sparsity`, after Louizos et al. 2018): masks are learned with the weights.

Every weight has a score, the logit of the probability that it is kept. In training the mask is a sample; its gradient goes
straight through to the probability. A term in the loss pulls the share of weights that are more likely dropped to the level.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics, numpy_xp
from nncf_ext.algorithm import State, Training
from nncf_ext.algorithms.noisy_weights import draw_noise, rows_for
from nncf_ext.algorithms.sparsity import ScheduledSparsity, SparsityStatistics, sparsity_measures
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.config.sparsity import RBSparsityConfig
from nncf_ext.edits import MASK, Plan, Range, Transform, Var
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock

FIRST_SCORE = math.log(0.99 / 0.01)
TOLERANCE = 0.05  # the loss is 1 where the share of kept weights is this far from what it should be
FAR = 64.0  # frozen scores are moved this far away from zero: neither noise, nor a gradient, nor weight decay gets them back


class RandomMask(Transform):
    """x * [score + noise > 0] in training, x * [score > 0] in inference.

    scores: shape of x. rows: which noise, see `nncf_ext.noise`. level: share of zeros that the loss pulls to; negative where it
    does not pull. The last two are variables, because a traced training step reads them anew.
    """

    kind: Literal["rb_mask"] = "rb_mask"
    stage: ClassVar[int] = MASK

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {
            "scores": Var(np.full(shape, FIRST_SCORE, np.float32), trainable=True),
            **rows_for(shape),
            "level": Var(np.zeros((), np.float32)),
        }

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return numerics.masked_by_score(xp, x, variables["scores"], variables["rows"] if training else None)


@dataclass(frozen=True)
class RBSparsityStatistics(SparsityStatistics):
    """mean_sparse_prob: mean probability that a weight is masked."""

    target_sparsity_level: float
    mean_sparse_prob: float


class RBSparsity(RBSparsityConfig, ScheduledSparsity):
    transforms: ClassVar[tuple[type[Transform], ...]] = (RandomMask,)
    tolerance: ClassVar[float] = TOLERANCE

    def plan(self, graph: Graph, target_device: str) -> Plan:
        return plan_weights(graph, self, self.algorithm, RandomMask())

    def masks(self, training: Training) -> list[np.ndarray]:
        return [training.variable(edit, "scores") > 0 for edit in training.edits]

    def compression_rate(self, training: Training, state: State) -> float:
        """Share of zeros among the weights that are masked; the level that the loss pulls to, where that was set by hand."""
        return self.current_sparsity_level(training, state) if state["scheduled"] else state["level"]

    def loss_settings(self, state: State) -> Mapping[str, Any]:
        return {"target_sparsity_rate": state["level"], "disabled": state["frozen"], "p": TOLERANCE}

    def follow(self, training: Training, state: State) -> None:
        for edit, level in zip(training.edits, self.levels(training, state), strict=True):
            training.attached.assign(edit, "level", np.float32(level))

    def initialize(self, training: Training, state: State) -> State:
        draw_noise(training, 0)
        return super().initialize(training, state)

    def take_up(self, training: Training, clock: Clock, state: State, saved: Mapping[str, Any]) -> State:
        """Scores are frozen when the next epoch begins: the state dict has them as they were before."""
        state = {**super().take_up(training, clock, state, saved), "frozen": False}
        self.follow(training, state)
        return state

    def step(self, training: Training, clock: Clock, state: State) -> State:
        if not state["frozen"]:
            draw_noise(training, clock.step)
        return super().step(training, clock, state)

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        """Noise is drawn in every step."""
        return () if state["frozen"] else {*super().awaits(clock, state), "step"}

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        """Frozen scores have no noise, gradient or loss, and stay on their side of zero."""
        if frozen == state["frozen"]:
            return state
        for edit in training.edits:
            score = training.variable(edit, "scores")
            size = np.abs(score) + FAR if frozen else np.maximum(np.abs(score) - FAR, 1e-3)
            training.attached.assign(edit, "scores", np.where(score > 0, size, -size).astype(np.float32))
            if frozen:
                training.attached.assign(edit, "level", np.float32(-1))
        state = {**state, "frozen": frozen}
        if not frozen:
            self.follow(training, state)
        return state

    def loss(self, training: Training, state: State) -> Any:
        """global: ((kept - wanted) / (p * n))^2 with the numbers of weights kept and wanted, of n in all, and p = 0.05.
        local: (sum of |kept - wanted| / n of the layers / p)^2.
        """
        if not training.edits:
            return None
        xp, variables = training.xp, [training.variables(edit) for edit in training.edits]
        kept = xp.stack([numerics.kept_count(xp, own["scores"]) for own in variables])
        level = xp.stop_gradient(xp.stack([own["level"] for own in variables]))
        sizes = xp.asarray(np.array([math.prod(own["scores"].shape) for own in variables]), like=level)
        excess = (kept - sizes * (1 - level)) * xp.cast_like(level >= 0, level)
        if self.params.sparsity_level_setting_mode == "global":
            return xp.square(xp.sum(excess) / (TOLERANCE * xp.sum(sizes)))
        return xp.square(xp.sum(xp.abs(excess) / sizes) / TOLERANCE)

    def report(self, training: Training, clock: Clock, state: State) -> RBSparsityStatistics:
        scores = [training.variable(edit, "scores").astype(np.float64) for edit in training.edits]
        far = FAR if state["frozen"] else 0.0
        kept = [float(numpy_xp.sigmoid(np.sign(s) * np.maximum(np.abs(s) - far, 0)).sum()) for s in scores]
        return RBSparsityStatistics(
            **sparsity_measures(training, self.masks(training)),
            target_sparsity_level=state["level"],
            mean_sparse_prob=1 - sum(kept) / max(sum(s.size for s in scores), 1),
        )
