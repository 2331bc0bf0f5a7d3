"""Sparse variational dropout (Molchanov, Ashukha, Vetrov 2017).

The noise is on the weights, the same for all samples of a step; the paper draws it for each sample's outputs (local
reparameterization), which needs the layer's operator, where ours sees any weight. The expected gradient is the same, with more
variance.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import noise
from nncf_ext.algorithm import Training
from nncf_ext.algorithms.learned_sparsity import FACTOR, LearnedMask, LearnedSparsity, weights_of
from nncf_ext.algorithms.noisy_weights import rows_for
from nncf_ext.config.learned_sparsity import VariationalDropoutConfig
from nncf_ext.edits import Range, Transform, Var

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # of the approximation of the divergence (eq. 14)
FARTHEST = 8.0  # log alpha is not told apart beyond


class WeightNoise(LearnedMask):
    """x + sigma * eps in training; in inference x where log alpha = log(sigma^2 / x^2) is below the threshold, else 0."""

    kind: Literal["weight_noise"] = "weight_noise"
    initial: float
    threshold: float

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        first = Var(np.full(shape, self.initial, np.float32), trainable=True)
        return self, {"log_variance": first, **rows_for(shape), **FACTOR}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        log_variance = variables["log_variance"]
        if training:
            return x + xp.exp(log_variance / 2) * noise.normal(xp, variables["rows"], tuple(log_variance.shape))
        return x * xp.cast_like(log_alpha(xp, x, log_variance) < self.threshold, x)


def log_alpha(xp: Any, weight: Any, log_variance: Any) -> Any:
    return log_variance - xp.log(xp.square(weight) + 1e-8)


def divergence(xp: Any, log_alpha: Any) -> Any:
    """KL of the weights' distributions from the log-uniform prior, summed:
    k1 - k1 * sigmoid(k2 + k3 * a) + log(1 + exp(-a)) / 2 with a = log alpha, clipped to [-8, 8] (eq. 14)."""
    a = xp.clip(log_alpha, -FARTHEST, FARTHEST)
    return xp.sum(K1 - K1 * xp.sigmoid(K2 + K3 * a) + xp.log(1 + xp.exp(-a)) / 2)


class VariationalDropout(VariationalDropoutConfig, LearnedSparsity):
    transforms: ClassVar[tuple[type[Transform], ...]] = (WeightNoise,)
    noisy: ClassVar[bool] = True

    def transform(self) -> LearnedMask:
        return WeightNoise(initial=self.params.initial_log_variance, threshold=self.params.threshold)

    def term(self, training: Training) -> Any:
        """The mean divergence of a weight."""
        xp, terms = training.xp, []
        for edit in training.edits:
            weight = training.attached.parameter(edit.site)
            terms.append(divergence(xp, log_alpha(xp, weight, training.variables(edit)["log_variance"])))
        return sum(terms[1:], terms[0]) / weights_of(training)
