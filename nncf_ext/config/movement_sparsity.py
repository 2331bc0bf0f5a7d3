"""The section `movement_sparsity`."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.section import Boolean, Count, LrMultiplier, Number, ScopedConfig, Scopes, Section, Size
from nncf_ext.errors import refusal


class SparseStructure(Section):
    """How the weights of some layers are sparsified: one by one, in blocks, or in whole rows or columns.

    Rows are outputs and columns inputs of a layer, whichever way round the framework stores its weight.
    """

    mode: Literal["fine", "block", "per_dim"]
    """fine: every weight by itself; block: blocks of sparse_factors; per_dim: whole rows (axis 0) or columns (axis 1)."""

    sparse_factors: tuple[Size, Size] | None = None
    """block: rows and columns of a block; they must divide the layer's."""

    axis: Annotated[Count, Field(le=1)] | None = None
    """per_dim: 0 for rows, 1 for columns."""

    target_scopes: Scopes
    """The layers, as exact names or as regular expressions marked with {re}. A layer may be in one entry only."""

    @model_validator(mode="after")
    def _of_its_mode(self) -> SparseStructure:
        wanted = {"block": "sparse_factors", "per_dim": "axis"}.get(self.mode)
        for key in ("sparse_factors", "axis"):
            if key == wanted and getattr(self, key) is None:
                raise refusal(f"the key {key!r} is missing, mode {self.mode!r} needs it")
            if key != wanted and getattr(self, key) not in (None, (1, 1)):
                raise refusal(f"found with mode {self.mode!r}, expected without it", key)
        return self


class MovementSparsityParams(Section):
    """When the importance scores begin to prune, how hard, and what happens at the end."""

    warmup_start_epoch: Annotated[Number, Field(ge=0)]
    """Epoch in which pruning begins; from 1 on, unless steps_per_epoch is given."""

    warmup_end_epoch: Annotated[Number, Field(gt=0)]
    """Epoch in which it ends: from here on the masks stay as they are."""

    importance_regularization_factor: Annotated[Number, Field(ge=0)]
    """Factor of the loss that pulls the scores down; the larger, the sparser."""

    enable_structured_masking: Boolean = True
    """At the end of the warm-up, prune whole attention heads and channels of feed-forward layers, where nothing of them is
    left, and restore what was pruned inside of the others."""

    power: Annotated[Number, Field(gt=0)] = 3.0
    """Exponent of the curve on which threshold and factor rise; fast first."""

    init_importance_threshold: Number | None = None
    """Threshold at the start; such that a thousandth of the weights is pruned where it is missing."""

    final_importance_threshold: Number = 0.0
    """Threshold at the end."""

    steps_per_epoch: Size | None = None
    """Optimizer steps in an epoch; measured in the first epoch where it is missing."""

    @model_validator(mode="after")
    def _in_order(self) -> MovementSparsityParams:
        if self.warmup_end_epoch <= self.warmup_start_epoch:
            raise refusal(
                f"found {self.warmup_end_epoch:g}, expected more than warmup_start_epoch {self.warmup_start_epoch:g}",
                "warmup_end_epoch",
            )
        if self.warmup_start_epoch < 1 and self.steps_per_epoch is None:
            raise refusal(
                f"the key 'steps_per_epoch' is missing, it is required with warmup_start_epoch {self.warmup_start_epoch:g}: "
                "there is no epoch before to measure it in"
            )
        first, last = self.init_importance_threshold, self.final_importance_threshold
        if first is not None and first >= last:
            warnings.warn(
                f"config: found init_importance_threshold {first:g}, expected less than final_importance_threshold {last:g}: "
                "fewer weights are pruned from epoch to epoch",
                UserWarning,
                stacklevel=2,
            )
        return self


class MovementSparsityConfig(ScopedConfig):
    """Movement sparsity: every weight, block, row or column of a linear layer learns whether it is needed."""

    algorithm: Literal["movement_sparsity"] = "movement_sparsity"
    """Name of the algorithm."""

    params: MovementSparsityParams
    """Schedule and strength."""

    sparse_structure_by_scopes: tuple[SparseStructure, ...] = ()
    """What is pruned as a whole, by layer; every weight by itself where no entry is about the layer."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the importance scores."""
