"""What data decides before training: `initializer` and its parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nncf_ext.config.section import Count, Percentile, Scopes, Section, deprecated
from nncf_ext.errors import refusal


def _one_count(section: Section, samples: str, batches: str) -> None:
    """Warn of the older key that counts batches; refuse it beside the one that counts samples."""
    if batches in section.model_fields_set:
        if samples in section.model_fields_set:
            raise refusal(f"the older spelling of {samples!r}, which is given too: expected one of them", batches)
        deprecated(f"the key {batches!r} counts batches: it is called {samples!r} now, and counts samples")


class BatchnormAdaptation(Section):
    """Re-estimation of the BatchNorm statistics when the model has just been compressed."""

    without_effect = frozenset({"num_bn_forget_steps", "num_bn_forget_samples"})

    num_bn_adaptation_samples: Count = 2000
    """Samples to run, rounded up to whole batches; 0 leaves the statistics as they are."""

    num_bn_adaptation_steps: Annotated[Count | None, Field(json_schema_extra={"deprecated": True})] = None
    """Deprecated: the same in batches."""

    @property
    def counts_batches(self) -> bool:
        return self.num_bn_adaptation_steps is not None

    @model_validator(mode="after")
    def _in_one_unit(self) -> BatchnormAdaptation:
        _one_count(self, "num_bn_adaptation_samples", "num_bn_adaptation_steps")
        return self

    @property
    def amount(self) -> str:
        """How many, with the unit; empty for none."""
        return _amount(self.num_bn_adaptation_steps, self.num_bn_adaptation_samples)

    def samples(self, batch_size: int) -> int:
        """How many to run, where batches have `batch_size`."""
        return _samples(self.num_bn_adaptation_steps, self.num_bn_adaptation_samples, batch_size)


class Initializer(Section):
    """What happens to the data of `register_default_init_args` before training starts."""

    batchnorm_adaptation: BatchnormAdaptation = BatchnormAdaptation()
    """BatchNorm statistics of the new model."""


class RangeInitParams(Section):
    """Settings of the percentile types."""

    min_percentile: Percentile = 0.1
    """Percentile that becomes the lower bound."""

    max_percentile: Percentile = 99.9
    """Percentile that becomes the upper bound."""

    @model_validator(mode="after")
    def _ordered(self) -> RangeInitParams:
        if self.min_percentile >= self.max_percentile:
            raise refusal(
                f"found {self.min_percentile}, expected less than max_percentile {self.max_percentile}", "min_percentile"
            )
        return self


class RangeInit(Section):
    """First values of the quantizers' ranges, from data. Weights need none."""

    num_init_samples: Count = 256
    """Samples to run, rounded up to whole batches; 0 skips the initialisation."""

    num_init_steps: Annotated[Count | None, Field(json_schema_extra={"deprecated": True})] = None
    """Deprecated: the same in batches."""

    type: Literal["min_max", "mixed_min_max", "mean_min_max", "threesigma", "percentile", "mean_percentile"] = "mixed_min_max"
    """min_max: smallest and largest value; mixed_min_max: mean over samples of the extremes for activations, min_max for weights;
    mean_min_max: mean over batches of the extremes; threesigma: median -+ 3 scaled median absolute deviations; percentile: two
    percentiles of all values; mean_percentile: mean over batches of the two percentiles."""

    params: RangeInitParams = RangeInitParams()
    """Percentiles, for the percentile types."""

    @property
    def counts_batches(self) -> bool:
        return self.num_init_steps is not None

    @model_validator(mode="after")
    def _in_one_unit(self) -> RangeInit:
        _one_count(self, "num_init_samples", "num_init_steps")
        return self

    @property
    def amount(self) -> str:
        """How many, with the unit; empty for none."""
        return _amount(self.num_init_steps, self.num_init_samples)

    def samples(self, batch_size: int) -> int:
        """How many to run, where batches have `batch_size`."""
        return _samples(self.num_init_steps, self.num_init_samples, batch_size)


class PerLayerRangeInit(RangeInit):
    """The same for some quantizers: those whose place one entry of the array speaks of, and only one."""

    target_scopes: Scopes | None = None
    """Places: names of the nodes that own the weight or whose output or input is quantized, or of quantizers (`name|OUTPUT`)."""

    ignored_scopes: Scopes | None = None
    """Places that the entry does not speak of."""

    target_quantizer_group: Literal["weights", "activations"] | None = None
    """Which quantizers there; both groups where it is missing."""

    @model_validator(mode="after")
    def _speaks_of_places(self) -> PerLayerRangeInit:
        if self.target_scopes is None and self.ignored_scopes is None:
            raise refusal("found neither target_scopes nor ignored_scopes, expected at least one in an entry of an array")
        return self


def _samples(batches: int | None, samples: int, batch_size: int) -> int:
    return samples if batches is None else batches * batch_size


def _amount(batches: int | None, samples: int) -> str:
    number, unit = (samples, "samples") if batches is None else (batches, "batches")
    return f"{number} {unit}" if number else ""


def one_or_array(value: Any) -> str:
    return "<array>" if isinstance(value, list | tuple) else "<object>"
