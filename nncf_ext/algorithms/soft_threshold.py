"""Soft threshold weight reparameterization (STR; Kusupati et al. 2020)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext.algorithm import Training
from nncf_ext.algorithms.learned_sparsity import FACTOR, LearnedMask, LearnedSparsity
from nncf_ext.config.learned_sparsity import SoftThresholdConfig
from nncf_ext.edits import Range, Transform, Var
from nncf_ext.sparsity.regularizers import soft_threshold


class SoftThreshold(LearnedMask):
    """sign(x) * relu(|x| - sigmoid(s)) with one learned s for the layer (eq. 2); an array of one, as FSDP2 takes no scalars."""

    kind: Literal["soft_threshold"] = "soft_threshold"
    initial: float

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"threshold": Var(np.full(1, self.initial, np.float32), trainable=True), **FACTOR}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return soft_threshold(xp, x, xp.sigmoid(variables["threshold"]))


class SoftThresholdSparsity(SoftThresholdConfig, LearnedSparsity):
    transforms: ClassVar[tuple[type[Transform], ...]] = (SoftThreshold,)

    def transform(self) -> LearnedMask:
        return SoftThreshold(initial=self.params.initial_threshold)

    def term(self, training: Training) -> Any:
        """Half the sum of the squared s: its gradient is what weight decay does to them in the paper."""
        xp = training.xp
        return xp.sum(xp.square(xp.stack([training.variables(edit)["threshold"] for edit in training.edits]))) / 2
