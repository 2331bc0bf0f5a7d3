"""The section `accuracy_aware_training`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.section import Count, Number, Section
from nncf_ext.errors import choose, refusal


class AccuracyAwareParams(Section):
    """How much accuracy may be lost, and how long the training may take."""

    renamed = MappingProxyType({"maximal_accuracy_degradation": "maximal_relative_accuracy_degradation"})

    maximal_relative_accuracy_degradation: Number | None = None
    """Tolerated loss in percent of the uncompressed model's accuracy, a gain to reach where it is negative; instead of the
    absolute one."""

    maximal_absolute_accuracy_degradation: Number | None = None
    """Tolerated loss in the units of the metric, a gain to reach where it is negative; instead of the relative one."""

    maximal_total_epochs: Count = 10000
    """Epochs after which training ends in any case; early_exit requires it."""

    initial_training_phase_epochs: Count | None = None
    """adaptive_compression_level: epochs with the config's own schedule, before the search for the highest rate begins."""

    patience_epochs: Count | None = None
    """adaptive_compression_level: epochs that a rate may take to come back into the budget, one at least."""

    initial_compression_rate_step: Annotated[Number, Field(ge=0)] = 0.1
    """adaptive_compression_level: first change of the rate; there is no search where it is below the minimal one."""

    compression_rate_step_reduction_factor: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """adaptive_compression_level: factor on the change when the search turns round."""

    lr_reduction_factor: Annotated[Number, Field(ge=0)] = 0.5
    """adaptive_compression_level: factor on the learning rate when the search turns round."""

    minimal_compression_rate_step: Annotated[Number, Field(ge=0)] = 0.025
    """adaptive_compression_level: the search ends when the change is smaller than this."""

    @model_validator(mode="after")
    def _one_degradation(self) -> AccuracyAwareParams:
        given = {name for name in DEGRADATIONS if getattr(self, name) is not None}
        if len(given) != 1:
            found = "both" if given else "neither of"
            raise refusal(f"found {found} {' and '.join(DEGRADATIONS)}, expected exactly one")
        return self


DEGRADATIONS = ("maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation")
_EARLY_EXIT_KEYS = ("maximal_total_epochs", *DEGRADATIONS)


class AccuracyAwareTraining(Section):
    """Train until the accuracy is within the budget (early_exit), or search the highest compression rate that keeps it there."""

    mode: Literal["early_exit", "adaptive_compression_level"]
    """early_exit: stop as soon as all is compressed and accurate; adaptive_compression_level: change the rate to its highest."""

    params: AccuracyAwareParams
    """The budget."""

    @model_validator(mode="after")
    def _keys_of_the_mode(self) -> AccuracyAwareTraining:
        early = self.mode == "early_exit"
        needed = ("maximal_total_epochs",) if early else ("initial_training_phase_epochs", "patience_epochs")
        for key in needed:
            if key not in self.params.model_fields_set:
                raise refusal(f"the key {key!r} is missing, mode {self.mode} requires it", "params")
        for key in sorted(self.params.model_fields_set) if early else ():
            if key not in _EARLY_EXIT_KEYS:
                raise refusal(f"found with mode early_exit, {choose(key, _EARLY_EXIT_KEYS)}", "params", key)
        return self
