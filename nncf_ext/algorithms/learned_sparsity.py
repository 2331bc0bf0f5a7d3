"""What algorithms have in common that learn which weights are zero, by a term in the loss that pulls to zeros."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, State, Training
from nncf_ext.algorithms.noisy_weights import draw_noise
from nncf_ext.algorithms.sparsity import SparsityStatistics, sparsity_measures, summary_of_masks
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.config.learned_sparsity import LearnedSparsityParams
from nncf_ext.config.section import ScopedConfig
from nncf_ext.edits import MASK, Edit, Plan, Transform, Var
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock

FACTOR = {"factor": Var(np.zeros((), np.float32))}  # of the loss; a variable, because a traced training step reads it anew


class LearnedMask(Transform):
    """`apply` in inference gives exact zeros where a weight is left out."""

    stage: ClassVar[int] = MASK


class LearnedSparsity(Algorithm):
    family: ClassVar[str] = "sparsity"
    noisy: ClassVar[bool] = False  # whether its transform draws noise
    params: LearnedSparsityParams

    def transform(self) -> LearnedMask:
        raise NotImplementedError

    def term(self, training: Training) -> Any:
        """What the loss has, without its factor."""
        raise NotImplementedError

    def plan(self, graph: Graph, target_device: str) -> Plan:
        assert isinstance(self, ScopedConfig)
        return plan_weights(graph, self, self.algorithm, self.transform())

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        return summary_of_masks(graph, edits, lambda _: f"{self.algorithm.replace('_', ' ')}: zeros are learned", None)

    def initialize(self, training: Training, state: State) -> State:
        draw_noise(training, 0)
        self._set_factor(training, 0)
        return state

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        self._set_factor(training, clock.epoch)
        return state

    def step(self, training: Training, clock: Clock, state: State) -> State:
        draw_noise(training, clock.step)
        return state

    def factor(self, epoch: int) -> float:
        params = self.params
        if epoch < params.warmup_epochs:
            return 0.0
        return params.weight * min((epoch - params.warmup_epochs + 1) / (params.ramp_epochs + 1), 1.0)

    def loss(self, training: Training, state: State) -> Any:
        if not training.edits:
            return None
        xp, factor = training.xp, training.variables(training.edits[0])["factor"]
        return xp.stop_gradient(factor) * self.term(training)

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        return CompressionStage.FULLY_COMPRESSED if clock.epoch >= self._whole else CompressionStage.PARTIALLY_COMPRESSED

    def schedule(self, clock: Clock, state: State) -> Mapping[str, Any]:
        """There is no level: the loss decides. target_epoch: from which on it has its whole factor."""
        return {"current_factor": self.factor(max(clock.epoch, 0)), "target_epoch": self._whole}

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        """The loss's factor is of the epoch; noise is drawn in every step, where the transform has any."""
        calls = ["epoch_step"] if clock.epoch < self._whole else []
        return [*calls, "step"] if self.noisy else calls

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if not training.edits or clock.epoch >= self._whole or self._whole == 0:
            return None
        found, whole = self.factor(max(clock.epoch, 0)), self.params.weight
        return f"found the factor {found:g} of its loss, expected {whole:g} from epoch {self._whole} on"

    @property
    def _whole(self) -> int:
        """The epoch from which on the factor is what the config says."""
        return self.params.warmup_epochs + self.params.ramp_epochs

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        """ValueError: what is zero is a value of what is learned, at every step anew."""
        if frozen:
            raise ValueError(f"{self.algorithm}: its zeros cannot be frozen; strip the model, and train on with const_sparsity")
        return state

    def masks(self, training: Training) -> list[np.ndarray]:
        """Nonzero where the weight stays, in the order of the edits."""
        xp, adapter = training.xp, training.adapter
        found = []
        for edit in training.edits:
            variables = {name: xp.stop_gradient(value) for name, value in training.attached.variables(edit).items()}
            weight = xp.stop_gradient(training.attached.parameter(edit.site))
            found.append(adapter.to_numpy(edit.transform.apply(xp, weight, variables, False)) != 0)
        return found

    def report(self, training: Training, clock: Clock, state: State) -> SparsityStatistics:
        return SparsityStatistics(**sparsity_measures(training, self.masks(training)))

    def _set_factor(self, training: Training, epoch: int) -> None:
        for edit in training.edits:
            training.attached.assign(edit, "factor", np.float32(self.factor(epoch)))


def weights_of(training: Training) -> int:
    return sum(math.prod(training.graph.shape_of(edit.site)) for edit in training.edits)
