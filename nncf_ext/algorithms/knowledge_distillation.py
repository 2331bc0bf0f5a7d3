"""Knowledge distillation: the compressed model imitates the outputs of the original one (Hinton et al. 2015; NNCF 2.x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nncf_ext.algorithms.algorithm import Algorithm, Outlook, State, Training
from nncf_ext.config.knowledge_distillation import KnowledgeDistillationConfig
from nncf_ext.distillation import outputs_loss
from nncf_ext.edits import Edit
from nncf_ext.graph import Graph

_WORDS = {"mse": "mean squared error", "softmax": "cross-entropy of softmax", "kl": "divergence of softmax"}


@dataclass(frozen=True)
class PlannedDistillation:
    loss: str
    teacher: str


class KnowledgeDistillation(KnowledgeDistillationConfig, Algorithm):
    @property
    def needs_teacher(self) -> bool:
        return True

    @property
    def factor(self) -> float:
        """Of the outputs' term: Hinton's a where the task's loss has the weight 1 - a."""
        given = "scale" in self.model_fields_set or self.task_weight is None
        return self.scale if given else 1 - (self.task_weight or 0)

    @property
    def weight_of_task(self) -> float:
        return 1.0 if self.task_weight is None else self.task_weight

    def outlook(self, graph: Graph, edits: Sequence[Edit]) -> Outlook:
        loss = f"{self.factor:g} * {_WORDS[self.type]}" + ("" if self.type == "mse" else f" at temperature {self.temperature:g}")
        if self.weight_of_task != 1:
            loss = f"{self.weight_of_task:g} * the task's loss + {loss}"
        return Outlook({}, PlannedDistillation(loss, "the uncompressed model, unless another one is given"))

    def loss(self, training: Training, state: State) -> Any:
        """Sum over the model's outputs; RuntimeError before the first training forward."""
        total = outputs_loss(self, training, self.algorithm)
        return None if total is None else self.factor * total
