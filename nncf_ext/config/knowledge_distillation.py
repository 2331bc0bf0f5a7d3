"""The section `knowledge_distillation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.errors import refusal
from nncf_ext.config.section import Number, Section


class KnowledgeDistillationConfig(Section):
    """Knowledge distillation: a term in the loss that pulls the model's outputs to those of the uncompressed model."""

    algorithm: Literal["knowledge_distillation"] = "knowledge_distillation"
    """Name of the algorithm."""

    type: Literal["mse", "softmax"]
    """mse: squared difference; softmax: cross-entropy with the teacher's softmax."""

    scale: Annotated[Number, Field(ge=0)] = 1.0
    """Factor of the term in the loss."""

    temperature: Annotated[Number, Field(gt=0)] = 1.0
    """softmax: both outputs are divided by it."""

    @model_validator(mode="after")
    def _temperature_is_of_softmax(self) -> KnowledgeDistillationConfig:
        if self.type == "mse" and "temperature" in self.model_fields_set:
            raise refusal("found with type mse, expected with type softmax only", "temperature")
        return self
