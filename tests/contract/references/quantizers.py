"""Gradients of the quantizers that a config can choose, by hand: `(transform, x, variables, g) -> (by x, by variables)`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Result = tuple[np.ndarray, dict[str, np.ndarray]]


def _total(value: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.sum(value, axis=tuple(a for a, size in enumerate(like.shape) if size == 1), keepdims=True)


def _lsq(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Esser et al. 2020, eq. 3."""
    step, (lowest, highest) = variables["step"], transform.levels
    v = x / np.abs(step)
    inside = (lowest <= v) & (v <= highest)
    if not transform.learned:
        return g * inside, {}
    by_step = np.where(inside, np.round(v) - v, np.where(v < lowest, lowest, highest))
    scale = 1 / math.sqrt(transform.elements * highest)
    return g * inside, {"step": scale * np.sign(step) * _total(g * by_step, step)}


def _lsq_plus(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Bhalgat et al. 2020, eq. 3 and 4, on the grid that zero is on: it is widened until it has zero on it."""
    step, offset, highest = variables["step"], variables["offset"], transform.levels[1]
    low, high = np.minimum(offset, 0), np.maximum(offset + np.abs(step) * highest, 0)
    zero = np.round(-low * highest / (high - low))
    candidates = [(high - end, end, high) for end in (zero / np.where(zero < highest, zero - highest, -1) * high,)]
    by_low = np.where(zero < highest, candidates[0][1], low)
    by_high = np.where(zero > 0, (zero - highest) / np.where(zero > 0, zero, 1) * low, high)
    lower = (zero == 0) | ((zero < highest) & (high - by_low > by_high - low))
    low, high = np.where(lower, by_low, low), np.where(lower, high, by_high)
    actual = (high - low) / highest
    v = x / actual
    first = np.round(low / actual)
    below, above = v < first, v > first + highest
    inside = ~(below | above)
    if not transform.learned:
        return g * inside, {}
    scale = 1 / math.sqrt(transform.elements * highest)
    by_step = np.where(inside, np.round(v) - v, np.where(above, highest, 0))
    return g * inside, {
        "step": scale * np.sign(step) * _total(g * by_step, step),
        "offset": scale * _total(g * ~inside, step),
    }


def _pact(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Choi et al. 2018, eq. 3."""
    clip = np.abs(variables["clip"])
    above, below = x >= clip, x < (-clip if transform.signed else 0 * clip)
    by_clip = above.astype(np.float32) - (below if transform.signed else 0)
    own = {"clip": np.sign(variables["clip"]) * _total(g * by_clip, clip)} if transform.learned else {}
    return g * ~(above | below), own


def _dorefa(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    return g * ((x >= (-1 if transform.signed else 0)) & (x <= 1)), {}


def _dorefa_weight(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    squashed = np.tanh(x)
    return g * (1 - squashed**2) / np.abs(squashed).max(), {}


# By bits: sums of two terms, over the largest of them; written out from Li et al. 2020, eq. 5.
_APOT = {
    2: [0, 1],
    3: [0, 1 / 4, 1 / 2, 1],
    4: [0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1],
    5: [n / 48 for n in (0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48)],
}


def _apot(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Li et al. 2020, eq. 8."""
    scale = np.abs(variables["scale"])
    v = x / scale
    levels = np.array(_APOT[transform.bits])
    level = np.sign(v) * levels[np.abs(np.abs(v)[..., None] - levels).argmin(-1)]
    inside = np.abs(v) <= 1
    by_scale = np.where(inside, level - v, np.sign(v))
    return g * inside, {"scale": np.sign(variables["scale"]) * _total(g * by_scale, scale)}


def _stretched_elastic(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """The levels as they are, by their number, and the derivative of scale * level(w / scale)."""
    scale = np.abs(variables["scale"])
    v = x / scale
    levels = np.array([-2 / 3, 0, 2 / 3] if transform.levels == 3 else [-0.75, -0.25, 0.25, 0.75])
    level = levels[np.abs(v[..., None] - levels).argmin(-1)]
    inside = np.abs(v) <= 0.99
    by_scale = np.where(inside, level - v, level) / math.sqrt(transform.elements)
    return g * inside, {"scale": np.sign(variables["scale"]) * _total(g * by_scale, scale)}


def _float8(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    if transform.of_weight:
        return g, {}
    largest = 448 if transform.format == "float8_e4m3fn" else 57344
    return g * (np.abs(x / variables["scale"]) <= largest), {}


VJPS = {
    "lsq": _lsq,
    "lsq_plus": _lsq_plus,
    "pact": _pact,
    "dorefa": _dorefa,
    "dorefa_weight": _dorefa_weight,
    "stretched_elastic": _stretched_elastic,
    "apot": _apot,
    "float8": _float8,
}
