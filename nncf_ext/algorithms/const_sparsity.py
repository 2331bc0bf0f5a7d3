"""Constant sparsity (NNCF 2.x `const_sparsity`): weights that are zero stay zero, while the others train or are quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from nncf_ext.algorithm import Algorithm, PlanSummary, State, Training
from nncf_ext.algorithms.sparsity import BinaryMask, SparsityStatistics, sparsity_measures, summary_of_masks
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.config.sparsity import ConstSparsityConfig
from nncf_ext.edits import Edit, Plan, Transform
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock


class ConstSparsity(ConstSparsityConfig, Algorithm):
    """The masks are those of the zeros when the model is compressed, or those of the checkpoint that is loaded afterwards: its
    tensors have the names of magnitude_sparsity's."""

    family: ClassVar[str] = "sparsity"
    transforms: ClassVar[tuple[type[Transform], ...]] = (BinaryMask,)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        return plan_weights(graph, self, self.algorithm, BinaryMask())

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        return summary_of_masks(graph, edits, lambda _: "mask: its zeros stay zero", None)

    def initialize(self, training: Training, state: State) -> State:
        for edit in training.edits:
            weight = training.adapter.to_numpy(training.attached.parameter(edit.site))
            training.attached.assign(edit, "mask", weight != 0)
        return state

    def report(self, training: Training, clock: Clock, state: State) -> SparsityStatistics:
        return SparsityStatistics(**sparsity_measures(training, [training.variable(edit, "mask") for edit in training.edits]))
