"""The section `clip_q`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Bits, Count, Level, Number, Scope, ScopedConfig, Section, Size


class ClipQSearch(Section):
    """A Bayesian search for the two numbers of each layer, without training: layer after layer, those before it compressed as
    found, those after it not yet."""

    trials: Size = 30
    """Models tried for each layer."""

    warmup_trials: Count = 8
    """How many of them are tried at random, after the first one, before the search learns from scores."""

    trade_off: Annotated[Number, Field(ge=0)] = 0.1
    """What a layer may cost: the search looks for the largest score + trade_off * saved, with the score of the registered
    autoq_eval_fn, in its unit, and saved = 1 - (1 - pruning) * bits / 32, the share of the bits of the layer's weights that codes
    of this many bits for the weights other than zero save; where the zeros are, and the code book, is not counted."""

    eval_subset_ratio: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of the validation data that a model is tried on."""


class ClipQInitializer(Initializer):
    """What data decides before training."""

    search: ClipQSearch | None = None
    """How `pruning` and `bits` are found for each layer that is not in `by_scope`; they are the same for all where it is
    missing."""


class ClipQLayer(Section):
    """The two numbers of some layers."""

    pruning: Level
    """Share of the weights that are zero."""

    bits: Bits
    """Bits of a code."""


class ClipQParams(Section):
    """How much is clipped to zero, and how many values are left."""

    pruning: Level = 0.5
    """Share of a layer's weights that are zero, of the positive and of the negative ones each, rounded down. Which ones these
    are is decided in every forward anew."""

    bits: Bits = 4
    """Bits of a code: 2^bits values, of which one is zero."""

    by_scope: dict[Scope, ClipQLayer] = {}
    """Other numbers for some layers, by name or by a regular expression marked with {re}; the last that is about a layer
    counts."""

    start_epoch: Count = 0
    """Epoch at whose beginning the weights are compressed; 0: when the model is compressed."""


class ClipQConfig(ScopedConfig):
    """CLIP-Q: in every forward the smallest weights are zero, and the others have the mean of their interval; training goes on
    with all of them."""

    algorithm: Literal["clip_q"] = "clip_q"
    """Name of the algorithm."""

    initializer: ClipQInitializer = ClipQInitializer()
    """What data decides before training."""

    params: ClipQParams = ClipQParams()
    """How much is compressed."""
