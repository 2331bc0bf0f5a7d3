"""Knowledge distillation: the compressed model imitates the outputs of the original one (Hinton et al. 2015; NNCF 2.x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nncf_ext.algorithms.algorithm import Algorithm, Outlook, State, Training
from nncf_ext.config.knowledge_distillation import KnowledgeDistillationConfig
from nncf_ext.edits import Edit
from nncf_ext.graph import Graph


@dataclass(frozen=True)
class PlannedDistillation:
    loss: str
    teacher: str


class KnowledgeDistillation(KnowledgeDistillationConfig, Algorithm):
    needs_teacher: ClassVar[bool] = True

    def outlook(self, graph: Graph, edits: Sequence[Edit]) -> Outlook:
        loss = "mean squared error" if self.type == "mse" else f"cross-entropy of softmax at temperature {self.temperature:g}"
        return Outlook({}, PlannedDistillation(f"{self.scale:g} * {loss}", "the uncompressed model, unless another one is given"))

    def loss(self, training: Training, state: State) -> Any:
        """Sum over the model's outputs; RuntimeError before the first training forward."""
        outputs = training.outputs
        if outputs is None:
            raise RuntimeError("knowledge_distillation: the loss was asked for before the model ran in training mode")
        if len(outputs.student) != len(outputs.teacher):
            raise ValueError(
                f"knowledge_distillation: the model has {len(outputs.student)} outputs and the teacher {len(outputs.teacher)}"
            )
        total = None
        for student, teacher in zip(outputs.student, outputs.teacher, strict=True):
            if tuple(student.shape) != tuple(teacher.shape):
                raise ValueError(
                    f"knowledge_distillation: an output of the model has shape {tuple(student.shape)}, "
                    f"the teacher's {tuple(teacher.shape)}"
                )
            term = (
                mean_squared_error(training.xp, student, teacher)
                if self.type == "mse"
                else soft_cross_entropy(training.xp, student, teacher, self.temperature)
            )
            total = term if total is None else total + term
        return None if total is None else self.scale * total


def soft_cross_entropy(xp: Any, student: Any, teacher: Any, temperature: float) -> Any:
    """T^2 * mean over all positions of -sum_c softmax(teacher/T)_c * log_softmax(student/T)_c; classes on the last axis.

    T^2 keeps the gradient's scale when T changes (Hinton et al. 2015, sec. 2.1).
    """
    if len(student.shape) not in (2, 3):
        raise ValueError(
            "knowledge_distillation: type softmax needs class scores on the last axis of a 2-d or 3-d output, "
            f"found shape {tuple(student.shape)}: use type mse"
        )
    target = xp.softmax(teacher / temperature, axis=-1)
    cross_entropy = -xp.sum(target * xp.log_softmax(student / temperature, axis=-1), axis=-1)
    return temperature**2 * xp.mean(cross_entropy)


def mean_squared_error(xp: Any, student: Any, teacher: Any) -> Any:
    return xp.mean(xp.square(student - teacher))
