"""The section `binarization`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from nncf_ext.config.initialization import PerLayerRangeInit, RangeInit, one_or_array
from nncf_ext.config.quantization import QuantizationInitializer, StagedParams
from nncf_ext.config.section import LrMultiplier, ScopedConfig


class BinarizationInitializer(QuantizationInitializer):
    """What happens to the data of `register_default_init_args` before activations are binarized."""

    range: Annotated[
        Annotated[RangeInit, Tag("<object>")] | Annotated[tuple[PerLayerRangeInit, ...], Tag("<array>")],
        Discriminator(one_or_array),
    ] = RangeInit(type="percentile")
    """How the scales of activations start: as the upper end of the range."""


class BinarizationConfig(ScopedConfig):
    """Binarization of two-dimensional convolutions: weights have two values, activations zero and one more."""

    algorithm: Literal["binarization"] = "binarization"
    """Name of the algorithm."""

    mode: Literal["xnor", "dorefa"] = "xnor"
    """Weights become the sign times the mean absolute value. xnor: of each output channel; dorefa: of the whole weight."""

    initializer: BinarizationInitializer = BinarizationInitializer()
    """What data decides when activations are first binarized."""

    params: StagedParams = StagedParams()
    """When binarization begins: by default in the second epoch."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the activations' scales and thresholds; that of the top level where it is missing."""
