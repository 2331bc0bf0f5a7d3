"""The section `iterative_magnitude`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Boolean, Count, Distribution, Level, Number, ScopedConfig, Section, Size
from nncf_ext.errors import refusal


class IterativeMagnitudeParams(Section):
    """When weights are pruned, which, and what else follows."""

    rounds: Size = 3
    """How often weights are pruned; each time the others are trained on."""

    epochs_per_round: Size = 5
    """Epochs of training after each pruning."""

    start_epoch: Count = 0
    """Epoch of the first pruning."""

    sparsity_target: Level | None = None
    """Share of zeros after the last round; every round takes the same share of what is left in a layer."""

    distribution: Distribution = "uniform"
    """How the layers share in it. uniform: each has the same level. erk: small layers keep more (Erdos-Renyi-Kernel). Or levels
    by scope; layers in none of these have sparsity_target."""

    quality: Annotated[Number, Field(gt=0)] | None = None
    """Instead: a round prunes what is smaller than quality times the standard deviation of the layer's remaining weights."""

    regularization: Literal["l1", "l2"] | None = None
    """Penalty on the remaining weights: l1 is better before they are trained on, l2 after (Han et al. 2015, sec. 3.1)."""

    regularization_weight: Annotated[Number, Field(ge=0)] = 1e-4
    """Factor of the sum of |w|, or of w^2."""

    remove_dead_neurons: Boolean = True
    """Whether neurons and channels without inputs or without outputs lose the others too, and leave the stripped model."""

    rescale_dropout: Boolean = True
    """Whether dropout falls with the root of the share of connections in the layer that reads it (Han et al. 2015, eq. 2)."""

    @model_validator(mode="after")
    def _one_of_them(self) -> IterativeMagnitudeParams:
        if (self.sparsity_target is None) == (self.quality is None):
            found = "neither" if self.quality is None else "both"
            raise refusal(f"found {found} of sparsity_target and quality, expected one of them", "sparsity_target")
        return self


class IterativeMagnitudeConfig(ScopedConfig):
    """Iterative magnitude pruning: rounds in which the smallest weights of each layer go, and the others are trained on."""

    algorithm: Literal["iterative_magnitude"] = "iterative_magnitude"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: IterativeMagnitudeParams
    """Rounds."""
