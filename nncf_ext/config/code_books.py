"""The sections `weight_clustering` and `ecsq`: weights that share the values of a code book."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Count, LrMultiplier, Number, ScopedConfig, Section, Size
from nncf_ext.errors import refusal


class CodeBookParams(Section):
    """When weights are coded, and which of them count how much."""

    start_epoch: Count = 0
    """Epoch at whose beginning the weights are coded; 0: when the model is compressed. From then on the values of the code book
    are trained, and which weight has which of them stays."""

    code_books: Literal["layer", "network"] = "layer"
    """Whether values are looked for in every layer by itself, or in all together. Every layer trains its own afterwards."""

    weighting: Literal["none", "squared_gradients", "hutchinson", "adam"] = "none"
    """What an error in a weight counts: the same everywhere, or what the diagonal of the Hessian says: by the squared gradients
    of the loss, by Hutchinson's method, or (free) the square root of the second moment that Adam and its relatives keep."""

    weighting_samples: Size = 1000
    """Samples of the registered data that the first two of these look at."""

    @model_validator(mode="after")
    def _adam_has_stepped(self) -> Self:
        if self.weighting == "adam" and not self.start_epoch:
            raise refusal(
                "found 0 with the weighting 'adam', which needs steps of the optimizer: expected 1 or more", "start_epoch"
            )
        return self


class WeightClusteringParams(CodeBookParams):
    """How many values, and where the search for them starts."""

    clusters: Annotated[Size, Field(le=4096)] = 16
    """Values other than zero that a layer (or the network) may have at most."""

    initial: Literal["linear", "density", "kmeans++"] = "linear"
    """Where k-means starts: evenly between the smallest and the largest weight, evenly among the weights in their order, or with
    k-means++."""


class WeightClusteringConfig(ScopedConfig):
    """Weight clustering: the weights share few values (k-means), which training goes on to improve. Zeros stay zero."""

    algorithm: Literal["weight_clustering"] = "weight_clustering"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides."""

    params: WeightClusteringParams = WeightClusteringParams()
    """Values."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the shared values; that of the top level where it is missing."""


class ECSQParams(CodeBookParams):
    """How few bits, and by which method."""

    code_books: Literal["layer", "network"] = "network"
    """Whether values are looked for in every layer by itself, or in all together. Every layer trains its own afterwards."""

    method: Literal["iterative", "uniform"] = "iterative"
    """Values and cells that minimize error + lagrangian * entropy by turns, or cells of one width whose value is their mean."""

    target_bits: Annotated[Number, Field(gt=0, le=12)] | None = None
    """Bits for each weight, as the entropy of the codes says, zeros counted: what the file will have at most."""

    lagrangian: Annotated[Number, Field(ge=0)] | None = None
    """The factor itself, in place of `target_bits`: what a bit counts beside the mean squared error of the weights, whose weights
    are 1 in the mean."""

    levels: Annotated[Size, Field(ge=3, le=4096)] = 64
    """Values that there may be at most, zero included; with so many cells the iterative method starts."""

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        if (self.target_bits is None) == (self.lagrangian is None):
            raise refusal("found both or none of target_bits and lagrangian, expected one of them", "target_bits")
        if self.method == "uniform" and self.target_bits is None:
            raise refusal("found for the method 'uniform', which has none: expected target_bits", "lagrangian")
        return self


class ECSQConfig(ScopedConfig):
    """Entropy-constrained scalar quantization: the values that give the smallest error for the bits they take once they are
    entropy coded."""

    algorithm: Literal["ecsq"] = "ecsq"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides."""

    params: ECSQParams
    """Bits and values."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the shared values; that of the top level where it is missing."""
