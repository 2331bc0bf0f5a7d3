"""L0 regularization by hard concrete gates (Louizos, Welling, Kingma 2018)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext.algorithm import Training
from nncf_ext.algorithms.learned_sparsity import FACTOR, LearnedMask, LearnedSparsity
from nncf_ext.algorithms.noisy_weights import rows_for
from nncf_ext.config.learned_sparsity import L0SparsityConfig
from nncf_ext.edits import Range, Transform, Var
from nncf_ext.sparsity.regularizers import hard_concrete_gated, l0


class HardConcreteGate(LearnedMask):
    """x * z, with a sample z of each weight's gate in training, and in inference what the gate is without noise."""

    kind: Literal["hard_concrete_gate"] = "hard_concrete_gate"
    initial: float

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"scores": Var(np.full(shape, self.initial, np.float32), trainable=True), **rows_for(shape), **FACTOR}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return hard_concrete_gated(xp, x, variables["scores"], variables["rows"] if training else None)


class L0Sparsity(L0SparsityConfig, LearnedSparsity):
    transforms: ClassVar[tuple[type[Transform], ...]] = (HardConcreteGate,)
    noisy: ClassVar[bool] = True

    def transform(self) -> LearnedMask:
        keep = self.params.initial_keep_probability
        return HardConcreteGate(initial=math.log(keep / (1 - keep)))

    def term(self, training: Training) -> Any:
        """The mean probability that a gate is not zero (eq. 12, over the number of weights)."""
        return l0(training.xp, [training.variables(edit)["scores"] for edit in training.edits])
