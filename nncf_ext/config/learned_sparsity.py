"""The sections `soft_threshold`, `l0_sparsity` and `variational_dropout`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Count, LrMultiplier, Number, ScopedConfig, Section

Weight = Annotated[Number, Field(ge=0)]


class LearnedSparsityParams(Section):
    """How strongly the loss pulls to zeros, and from when on."""

    weight: Weight = 1.0
    """Factor of the algorithm's term in the loss."""

    warmup_epochs: Count = 0
    """Epochs without the term."""

    ramp_epochs: Count = 0
    """Epochs in which the factor rises to `weight`, linearly."""


class SoftThresholdParams(LearnedSparsityParams):
    """The thresholds, and how strongly the loss pulls them up."""

    weight: Weight = 1e-3
    """Factor of half the sum of the squared s, of which sigmoid(s) is a layer's threshold: what weight decay does to s in the
    paper."""

    initial_threshold: Annotated[Number, Field(lt=0)] = -8.0
    """s at the start: -8 is a threshold of 0.0003."""


class SoftThresholdConfig(ScopedConfig):
    """Soft threshold weight reparameterization (STR): each layer learns a threshold; weights below it are zero, the others shrink
    by it."""

    algorithm: Literal["soft_threshold"] = "soft_threshold"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: SoftThresholdParams = SoftThresholdParams()
    """Thresholds."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the thresholds; that of the top level where it is missing."""


class L0SparsityParams(LearnedSparsityParams):
    """The gates, and how strongly the loss closes them."""

    weight: Weight = 1.0
    """Factor of the mean probability that a weight is not zero."""

    initial_keep_probability: Annotated[Number, Field(gt=0, lt=1)] = 0.9
    """sigmoid of the gates' logits at the start."""


class L0SparsityConfig(ScopedConfig):
    """L0 regularization: every weight has a gate that is exactly zero with a probability, which is learned."""

    algorithm: Literal["l0_sparsity"] = "l0_sparsity"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: L0SparsityParams = L0SparsityParams()
    """Gates."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the gates; that of the top level where it is missing."""


class VariationalDropoutParams(LearnedSparsityParams):
    """The noise on the weights, and how strongly the loss raises it."""

    weight: Weight = 0.1
    """Factor of the mean divergence of a weight from its prior. The number of weights over that of the training samples is the
    variational bound."""

    initial_log_variance: Annotated[Number, Field(le=0)] = -10.0
    """log sigma^2 at the start."""

    threshold: Number = 3.0
    """A weight is zero in inference where log(sigma^2 / w^2) is at least this."""


class VariationalDropoutConfig(ScopedConfig):
    """Variational dropout: every weight has Gaussian noise, whose size is learned; weights that are mostly noise are zero."""

    algorithm: Literal["variational_dropout"] = "variational_dropout"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: VariationalDropoutParams = VariationalDropoutParams()
    """Noise."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the noise's size; that of the top level where it is missing."""
