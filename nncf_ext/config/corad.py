"""The section `corad`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.knowledge_distillation import OutputMatching
from nncf_ext.config.section import Count, LrMultiplier, Number, ScopedConfig, Section, Size
from nncf_ext.errors import refusal


class Weighted(Section):
    """A term of the loss and its factor over time."""

    weight: Annotated[Number, Field(ge=0)]
    """Factor of the term when its schedule is through; 0 switches it off."""

    schedule: Literal["constant", "linear", "cubic", "multistep"] = "constant"
    """How the factor gets there after warmup_epochs: at once, or within ramp_epochs, cubic fast first; multistep: by factors."""

    warmup_epochs: Count = 0
    """Epochs without the term."""

    ramp_epochs: Count = 0
    """linear, cubic: epochs that the rise takes."""

    multistep_steps: tuple[Count, ...] = ()
    """multistep: epochs in which the factor changes."""

    multistep_factors: tuple[Annotated[Number, Field(ge=0)], ...] = (1.0,)
    """multistep: what weight is multiplied with, one more than there are epochs in multistep_steps."""

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Weighted:
        found, expected = len(self.multistep_factors), len(self.multistep_steps) + 1
        if self.schedule == "multistep" and found != expected:
            raise refusal(f"found {found} factors, expected {expected}: one more than multistep_steps", "multistep_factors")
        return self


class Regularization(Weighted):
    """What makes the model small. All kinds are means over weights, so that a weight suits models of any size."""

    type: Literal["l1", "group_lasso", "l0", "entropy", "bit_width", "latency"]
    """l1: absolute values; group_lasso: norms of the output channels' weights; l0: probabilities that weights are not zero, by
    learned random gates, which are there during warmup_epochs too; entropy: bits of a code of the weights in steps
    of delta; bit_width: bits that the learned ranges of quantized weights take in such steps; latency: of the output channels
    in use."""

    proximal_step: Annotated[Number, Field(gt=0)] | None = None
    """l1, group_lasso: minimise the term by proximal steps of this size, one after each of the optimizer's, instead of by its
    gradient: then weights become exactly zero. The optimizer's learning rate is the natural size."""

    delta: Annotated[Number, Field(gt=0)] = 0.01
    """entropy, bit_width: width of a step; latency: root mean square of a channel's weights at which it counts as half in use."""

    latency_table: str | None = None
    """latency: JSON file with a number by node name, for the whole layer; its floating-point operations where it is missing."""

    @model_validator(mode="after")
    def _keys_are_of_the_type(self) -> Regularization:
        if self.proximal_step is not None and self.type not in ("l1", "group_lasso"):
            raise refusal(f"found with type {self.type}, expected with type l1 or group_lasso only", "proximal_step")
        if self.latency_table is not None and self.type != "latency":
            raise refusal(f"found with type {self.type}, expected with type latency only", "latency_table")
        return self


class WeightedMatching(Weighted, OutputMatching):
    """The distillation term: how outputs are compared with the teacher's, and its factor over time."""


class CoradConfig(ScopedConfig):
    """Compactness-oriented regularisation and distillation: the loss is the task's + lambda * a regulariser of the weights +
    gamma * the difference to the uncompressed model's outputs. The definition is nncf_ext's own."""

    algorithm: Literal["corad"] = "corad"
    """Name of the algorithm."""

    regularization: Regularization | None = None
    """The term with lambda; none where it is missing."""

    distillation: WeightedMatching | None = None
    """The term with gamma; none where it is missing."""

    compression_lr_multiplier: LrMultiplier | None = None
    """l0: factor on the gradients of the gates; that of the top level where it is missing."""

    steps_per_epoch: Size | None = None
    """Optimizer steps in an epoch, for schedules that rise with every step; measured in the first epoch where it is missing."""
