from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nncf_ext import numerics
from nncf_ext import reference as xp
from nncf_ext.algorithms.quantization import Quantizer
from tests.contract.references.reference import AlgorithmReference


def _vjp(
    transform: Quantizer, x: np.ndarray, variables: Mapping[str, Any], g: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    assert transform.learned is not None
    grid = transform.grid(xp, variables)
    v, zero = x / grid.step, numerics.zero_point(xp, grid.low, grid.step)
    below, above = v < -zero, v > grid.intervals - zero
    inside = ~(below | above)
    axes = tuple(a for a, size in enumerate(grid.step.shape) if size == 1)

    def total(value: np.ndarray) -> np.ndarray:
        return np.sum(value, axis=axes, keepdims=True)

    if not transform.learned:
        return g * inside, {}
    by_low = total(g * (below | above))
    by_step = total(g * (np.where(inside, np.round(v) - v, 0) + np.where(above, grid.intervals, 0)))
    lowest, highest = transform.levels
    # symmetric: step = |scale| / highest, low = lowest * step
    by_size = (by_step + lowest * by_low) / highest if transform.symmetric else by_step / (highest - lowest)
    name, others = ("scale", {}) if transform.symmetric else ("span", {"low": by_low})
    if transform.logarithm:
        return g * inside, {**others, f"log_{name}": by_size * np.exp(variables[f"log_{name}"])}
    return g * inside, {**others, name: by_size * np.sign(variables[name])}


REFERENCE = AlgorithmReference(vjps={"quantizer": _vjp})
