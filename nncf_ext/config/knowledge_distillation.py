"""The section `knowledge_distillation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.section import Number, Scope, Section, without_effect


class Padding(Section):
    """Positions of a sequence that are no tokens."""

    input: str
    """Name of the model's input that tells: the argument's, in Keras the key's or the input layer's."""

    value: Number = 0
    """What the input has at a position that does not count: the padding token's number, or 0 in an attention mask."""


class OutputMatching(Section):
    """How the model's outputs are compared with the teacher's."""

    type: Literal["mse", "softmax", "kl"]
    """mse: squared difference; softmax: cross-entropy with the teacher's softmax; kl: the divergence from it, which has the same
    gradients and is zero where both agree."""

    temperature: Annotated[Number, Field(gt=0)] = 1.0
    """softmax, kl: both outputs are divided by it."""

    padding: Padding | None = None
    """Positions of sequences that do not count; all count where it is missing."""

    @model_validator(mode="after")
    def _temperature_is_of_softmax(self) -> OutputMatching:
        if self.type == "mse" and "temperature" in self.model_fields_set:
            without_effect("temperature", "type mse")
        return self


class FeaturePair(Section):
    """Two nodes whose outputs are compared."""

    student: Scope
    """Node of the model: its name, or a regular expression marked with {re} that is found in this one name only."""

    teacher: Scope | None = None
    """Node of the teacher, in the same notation; by default the one of the student's name."""

    loss: Literal["mse", "attention"] = "mse"
    """mse: squared difference, after a learned projection where the numbers of channels differ; attention: that of the maps of
    where the squares, summed over the channels, are large."""

    weight: Annotated[Number, Field(ge=0)] = 1.0
    """Factor of the term in the loss."""


class KnowledgeDistillationConfig(OutputMatching):
    """Knowledge distillation: a term in the loss that pulls the model's outputs to those of the uncompressed model."""

    algorithm: Literal["knowledge_distillation"] = "knowledge_distillation"
    """Name of the algorithm."""

    scale: Annotated[Number, Field(ge=0)] = 1.0
    """Factor of the term in the loss; where it is missing and task_weight is given, 1 - task_weight. With features, 0 leaves the
    outputs out: those of detectors are losses in training."""

    task_weight: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Factor of the task's own loss, by default 1: Hinton's 1 - a. Keras' `fit` applies it, a loop of your own asks for
    `controller.total_loss(loss)`."""

    features: tuple[FeaturePair, ...] = ()
    """Nodes inside of the model that are to be as nodes of the teacher are."""
