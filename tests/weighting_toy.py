"""A linear model of four weights whose Hessian is diagonal and known: what each weighting makes of it."""

import numpy as np

WEIGHTS = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
_SCALES = np.array([1.0, 3.0, 0.5, 2.0], np.float32)
# a sample has one feature that is not zero, two samples that come together have different ones
INPUTS = np.diag(_SCALES)[[0, 1, 2, 3, 1, 0, 3, 2]]
TARGETS = (INPUTS @ WEIGHTS - 1)[:, None].astype(np.float32)  # every residual is 1, so squared gradients are as the Hessian


def mean_weighted_by_the_hessian(weights: np.ndarray = WEIGHTS) -> float:
    """d^2 / dw_i^2 of the mean squared error is twice the mean of x_i^2."""
    return _mean(weights, _SCALES**2)


def mean_weighted_by_the_first_step_of_adam(weights: np.ndarray) -> float:
    """After one step v_i is (1 - beta) g_i^2, and g_i is twice the mean of x_i."""
    return _mean(weights, _SCALES)


def _mean(weights: np.ndarray, estimate: np.ndarray) -> float:
    """With a tenth of the mean estimate added to each."""
    return float(np.average(weights, weights=estimate + 0.1 * estimate.mean()))
