"""Whether two models compute the same."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2}  # of the largest output, by compute dtype; for any other one 1e-4


def outputs_of(model: Any, example: Any) -> list[np.ndarray]:
    """Outputs of a model in inference mode."""
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in keras.tree.flatten(model(example, training=False))]


def largest_difference(before: np.ndarray, after: np.ndarray) -> float:
    """Largest difference, as a part of the largest value."""
    if before.shape != after.shape or (np.isfinite(before) != np.isfinite(after)).any():
        return np.inf
    finite = np.isfinite(before)
    a, b = (np.where(finite, x, 0).astype(np.float64) for x in (before, after))
    return float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-6))
