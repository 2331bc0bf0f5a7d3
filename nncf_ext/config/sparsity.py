"""The sections `magnitude_sparsity`, `rb_sparsity`, `const_sparsity` and `wanda_sparsity`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Boolean, Count, Level, LrMultiplier, Number, ScopedConfig, Section, Size, without_effect
from nncf_ext.errors import refusal


class SparsityParams(Section):
    """The schedule of the sparsity level, and what the level is about."""

    renamed = MappingProxyType(
        {
            "sparsity_steps": "sparsity_target_epoch",
            "sparsity_training_steps": "sparsity_freeze_epoch",
            "steps": "multistep_steps",
            "sparsity_levels": "multistep_sparsity_levels",
        }
    )

    schedule: Literal["polynomial", "exponential", "multistep", "adaptive"] = "polynomial"
    """How the level goes from sparsity_init to sparsity_target; adaptive: 0.05 more whenever the model has come within 0.03 of
    the present level."""

    sparsity_target: Level = 0.5
    """Share of zeros at the end; multistep: the last of its levels instead."""

    sparsity_target_epoch: Count = 90
    """Epoch in which the target is reached."""

    sparsity_freeze_epoch: Count = 100
    """Epoch from which on the masks stay as they are."""

    sparsity_level_setting_mode: Literal["global", "local"] = "global"
    """global: one level for all layers together; local: the level holds in every layer."""

    update_per_optimizer_step: Boolean = False
    """polynomial: raise the level in every step instead of every epoch."""

    steps_per_epoch: Size | None = None
    """Optimizer steps in an epoch, for update_per_optimizer_step; measured in the first epoch where it is missing."""

    multistep_steps: tuple[Count, ...] = (90,)
    """multistep: epochs in which the level changes."""

    multistep_sparsity_levels: tuple[Level, ...] = (0.1, 0.5)
    """multistep: the levels, one more than there are epochs in multistep_steps."""

    patience: Count = 1
    """adaptive: epochs that the model has to be at the present level before it rises."""

    power: Annotated[Number, Field(gt=0)] = 0.9
    """polynomial: exponent of the curve."""

    concave: Boolean = True
    """polynomial: whether the level rises fast first."""

    @model_validator(mode="after")
    def _one_level_more_than_steps(self) -> SparsityParams:
        levels, steps = len(self.multistep_sparsity_levels), len(self.multistep_steps)
        if self.schedule == "multistep" and levels != steps + 1:
            raise refusal(
                f"found {levels} levels, expected {steps + 1}: one more than multistep_steps", "multistep_sparsity_levels"
            )
        if self.schedule != "polynomial" and self.update_per_optimizer_step:
            without_effect("update_per_optimizer_step", f"schedule {self.schedule}, it belongs to schedule polynomial")
        return self


class MagnitudeSparsityParams(SparsityParams):
    """The schedule of the sparsity level, and which weights go first."""

    weight_importance: Literal["normed_abs", "abs"] = "normed_abs"
    """What is compared: absolute values, or absolute values over the L2 norm of the layer's weights."""


class MagnitudeSparsityConfig(ScopedConfig):
    """Magnitude sparsity: the smallest weights become zero, more of them from epoch to epoch."""

    algorithm: Literal["magnitude_sparsity"] = "magnitude_sparsity"
    """Name of the algorithm."""

    sparsity_init: Level = 0.0
    """Share of zeros at the start."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: MagnitudeSparsityParams = MagnitudeSparsityParams()
    """Schedule and importance."""


class RBSparsityParams(SparsityParams):
    """The schedule of the sparsity level that the loss pulls to."""

    schedule: Literal["polynomial", "exponential", "multistep", "adaptive"] = "exponential"
    """How the level goes from sparsity_init to sparsity_target; adaptive: 0.05 more whenever the model has come within 0.03 of
    the present level."""


class RBSparsityConfig(ScopedConfig):
    """Regularization-based sparsity: a score per weight is learned; weights with a negative one are zero, and a term in the loss
    pulls their share to a level that rises from epoch to epoch."""

    algorithm: Literal["rb_sparsity"] = "rb_sparsity"
    """Name of the algorithm."""

    sparsity_init: Level = 0.0
    """Level at the start."""

    params: RBSparsityParams = RBSparsityParams()
    """Schedule."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the scores; that of the top level where it is missing."""


class ConstSparsityConfig(ScopedConfig):
    """Constant sparsity: weights that are zero stay zero."""

    algorithm: Literal["const_sparsity"] = "const_sparsity"
    """Name of the algorithm."""


class WandaSparsityParams(SparsityParams):
    """The schedule of the sparsity level, and on how much data inputs are measured."""

    sparsity_level_setting_mode: Literal["local"] = "local"
    """local: the level holds in every output of every layer."""

    num_samples: Size = 128
    """Samples that are run at the start and in every epoch until the masks are frozen, rounded up to whole batches."""


class WandaSparsityConfig(ScopedConfig):
    """Wanda sparsity: of each output's weights, those with the smallest product of magnitude and norm of their input become zero,
    more of them from epoch to epoch."""

    algorithm: Literal["wanda_sparsity"] = "wanda_sparsity"
    """Name of the algorithm."""

    sparsity_init: Level = 0.0
    """Share of zeros at the start."""

    params: WandaSparsityParams = WandaSparsityParams()
    """Schedule and samples."""
