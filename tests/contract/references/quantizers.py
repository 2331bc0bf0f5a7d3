"""The quantizers that a config can choose, by hand: `(transform, x, variables, training) -> y`, and their gradients
`(transform, x, variables, g) -> (by x, by variables)`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Result = tuple[np.ndarray, dict[str, np.ndarray]]


def _total(value: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.sum(value, axis=tuple(a for a, size in enumerate(like.shape) if size == 1), keepdims=True)


def rounded(x: np.ndarray, step: np.ndarray, lowest: Any, highest: Any) -> np.ndarray:
    """The nearest multiple of `step`, half to even, by lowest..highest of them."""
    return np.clip(np.round(x / step), lowest, highest) * step


def levels_by_hand(transform: Any) -> tuple[int, int]:
    """-8..7 with 4 bits, without -8 where narrow, as PACT and DoReFa always are; 0..15 without a sign."""
    bits = transform.bits - transform.half
    if not (transform.symmetric and transform.signed):
        return int(transform.narrow), 2**bits - 1
    narrow = transform.narrow or transform.kind in ("pact", "dorefa")
    return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1


def through_zero(low: np.ndarray, high: np.ndarray, intervals: int) -> tuple[np.ndarray, np.ndarray]:
    """The range, wider at one end, so that zero is on its grid; an end closer to zero than half a step becomes zero."""
    ends = []
    for a, b in zip(np.minimum(low, 0).ravel(), np.maximum(high, 0).ravel(), strict=True):
        zero = np.round(-a * intervals / (b - a))
        if zero == 0:
            ends.append((0 * a, b))
        elif zero == intervals:
            ends.append((a, 0 * b))
        else:
            candidates = [(zero / (zero - intervals) * b, b), (a, (zero - intervals) / zero * a)]
            ends.append(max(candidates, key=lambda ends: ends[1] - ends[0]))
    lows, highs = np.array(ends, low.dtype).T
    return lows.reshape(low.shape), highs.reshape(low.shape)


def of_a_range(x: np.ndarray, low: np.ndarray, high: np.ndarray, intervals: int) -> np.ndarray:
    """Rounded to the grid of `intervals` steps from low to high, of which one is zero."""
    step = (high - low) / intervals
    zero = np.round(-low / step)
    return rounded(x, step, -zero, intervals - zero)


def _lsq_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return rounded(x, np.abs(variables["step"]), *levels_by_hand(transform))


def _lsq(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Esser et al. 2020, eq. 3."""
    step, (lowest, highest) = variables["step"], levels_by_hand(transform)
    v = x / np.abs(step)
    inside = (lowest <= v) & (v <= highest)
    if not transform.learned:
        return g * inside, {}
    by_step = np.where(inside, np.round(v) - v, np.where(v < lowest, lowest, highest))
    scale = 1 / math.sqrt(transform.elements * highest)
    return g * inside, {"step": scale * np.sign(step) * _total(g * by_step, step)}


def _lsq_plus_range(transform: Any, variables: Any) -> tuple[np.ndarray, np.ndarray, int]:
    step, offset, highest = variables["step"], variables["offset"], 2**transform.bits - 1
    return *through_zero(offset, offset + np.abs(step) * highest, highest), highest


def _lsq_plus_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return of_a_range(x, *_lsq_plus_range(transform, variables))


def _lsq_plus(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Bhalgat et al. 2020, eq. 3 and 4, on the grid that zero is on: it is widened until it has zero on it."""
    step, (low, high, highest) = variables["step"], _lsq_plus_range(transform, variables)
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


def _pact_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    lowest, highest = levels_by_hand(transform)
    return rounded(x, np.abs(variables["clip"]) / highest, lowest, highest)


def _pact(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Choi et al. 2018, eq. 3."""
    clip = np.abs(variables["clip"])
    above, below = x >= clip, x < (-clip if transform.signed else 0 * clip)
    by_clip = above.astype(np.float32) - (below if transform.signed else 0)
    own = {"clip": np.sign(variables["clip"]) * _total(g * by_clip, clip)} if transform.learned else {}
    return g * ~(above | below), own


def _dorefa_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    lowest, highest = levels_by_hand(transform)
    return rounded(x, np.float32(1 / highest), lowest, highest)


def _dorefa(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    return g * ((x >= (-1 if transform.signed else 0)) & (x <= 1)), {}


def _dorefa_weight_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    """Zhou et al. 2016, eq. 9."""
    n, squashed = 2**transform.bits - 1, np.tanh(x)
    return 2 * np.round(n * (squashed / (2 * np.abs(squashed).max()) + 0.5)) / n - 1


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


def _nearest_sum(transform: Any, v: np.ndarray) -> np.ndarray:
    levels = np.array(_APOT[transform.bits], np.float32)
    return np.sign(v) * levels[np.abs(np.abs(v)[..., None] - levels).argmin(-1)]


def _apot_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    scale = np.abs(variables["scale"])
    return scale * _nearest_sum(transform, x / scale)


def _apot(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """Li et al. 2020, eq. 8."""
    scale = np.abs(variables["scale"])
    v = x / scale
    level = _nearest_sum(transform, v)
    inside = np.abs(v) <= 1
    by_scale = np.where(inside, level - v, np.sign(v))
    return g * inside, {"scale": np.sign(variables["scale"]) * _total(g * by_scale, scale)}


def _nearest_level(transform: Any, v: np.ndarray) -> np.ndarray:
    levels = np.array([-2 / 3, 0, 2 / 3] if transform.levels == 3 else [-0.75, -0.25, 0.25, 0.75], np.float32)
    return levels[np.abs(v[..., None] - levels).argmin(-1)]


def _stretched_elastic_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    scale = np.abs(variables["scale"])
    return scale * _nearest_level(transform, x / scale)


def _stretched_elastic(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    """The levels as they are, by their number, and the derivative of scale * level(w / scale)."""
    scale = np.abs(variables["scale"])
    v = x / scale
    level = _nearest_level(transform, v)
    inside = np.abs(v) <= 0.99
    by_scale = np.where(inside, level - v, level) / math.sqrt(transform.elements)
    return g * inside, {"scale": np.sign(variables["scale"]) * _total(g * by_scale, scale)}


@dataclass(frozen=True)
class _Format:
    """A sign, so many bits of a mantissa, and the exponents that they begin and end with."""

    mantissa: int
    smallest_exponent: int
    largest: float

    def nearest(self, x: np.ndarray) -> np.ndarray:
        exponent = np.maximum(np.floor(np.log2(np.where(x == 0, 1, np.abs(x)))), self.smallest_exponent)
        spacing = np.float32(2) ** (exponent - self.mantissa)
        return np.clip(np.round(x / spacing) * spacing, -self.largest, self.largest)


_FORMATS = {"float8_e4m3fn": _Format(3, -6, 448), "float8_e5m2": _Format(2, -14, 57344)}


def _float8_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    form = _FORMATS[transform.format]
    if transform.of_weight:
        axes = tuple(axis for axis in range(x.ndim) if axis != transform.channel_axis)
        scale = np.abs(x).max(axes, keepdims=True) / form.largest
    else:
        scale = variables["scale"]
    return form.nearest(np.clip(x / scale, -form.largest, form.largest)) * scale


def _float8(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Result:
    if transform.of_weight:
        return g, {}
    return g * (np.abs(x / variables["scale"]) <= _FORMATS[transform.format].largest), {}


FORWARDS = {
    "lsq": _lsq_forward,
    "lsq_plus": _lsq_plus_forward,
    "pact": _pact_forward,
    "dorefa": _dorefa_forward,
    "dorefa_weight": _dorefa_weight_forward,
    "stretched_elastic": _stretched_elastic_forward,
    "apot": _apot_forward,
    "float8": _float8_forward,
}
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
