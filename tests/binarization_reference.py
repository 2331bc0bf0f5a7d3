"""Gradients of binarization worked out by hand (NNCF 2.x), for the tests of both frameworks."""

from __future__ import annotations

import numpy as np

from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.binarization import BinaryActivation, BinaryWeight

SHAPE = (5, 3, 4, 2)


def example() -> dict[str, np.ndarray]:
    """An activation with values on either side of 0, of the thresholds and of the scale, its variables, and a gradient."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(0.5, 1, SHAPE).astype(np.float32),
        "log_scale": np.full((1, 1, 1, 1), 0.2, np.float32),
        "logit": rng.normal(0, 1, (1, 3, 1, 1)).astype(np.float32),
        "g": rng.normal(0, 1, SHAPE).astype(np.float32),
    }


def activation(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Output and gradients by x, log_scale and logit."""
    x, g, scale, threshold = given["x"], given["g"], np.exp(given["log_scale"]), xp.sigmoid(given["logit"])
    y = BinaryActivation(threshold_axis=1).apply(xp, x, {name: given[name] for name in ("log_scale", "logit")}, True)
    by_scale = np.sum(g * np.where(x <= scale, (y - x) / scale, 1))
    by_threshold = -np.sum(g * ((x > 0) & (x < scale)), axis=(0, 2, 3), keepdims=True)
    return {
        "y": y,
        "x": g * ((x >= 0) & (x <= scale)),
        "log_scale": by_scale * scale,  # d exp(s) / ds
        "logit": by_threshold * threshold * (1 - threshold),
    }


def weight(x: np.ndarray) -> np.ndarray:
    return BinaryWeight(channel_axis=1).apply(xp, x, {}, True)
