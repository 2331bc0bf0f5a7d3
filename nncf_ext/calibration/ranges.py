"""Range initialisation: what is kept of the tensors that pass a site, and the range made of it (NNCF 2.x `initializer.range`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nncf_ext.edits import ObserverSpec, Range

_FEW = 1 << 12  # values kept of one batch of activations beside their range
_SAMPLE = 1 << 16  # values kept of one tensor per batch where all of them are needed (evenly spaced), to bound memory


class RangeCollector:
    """Collects over batches for one quantizer.

    channel_axis: None for per-tensor. symmetric: the range is used by its largest magnitude only. keeps_values: the result has
    values too. "Per sample" means the whole of a parameter.
    """

    def __init__(self, spec: ObserverSpec, channel_axis: int | None, symmetric: bool, keeps_values: bool = False):
        is_plain = spec.of_parameter or channel_axis is not None  # no batch of samples with one range: their extremes
        self._kind = "min_max" if spec.kind == "mixed_min_max" and is_plain else spec.kind
        self._axis, self._symmetric, self._percentiles = channel_axis, symmetric, spec.percentiles
        self._kept: list[np.ndarray] | None = [] if keeps_values else None
        self._most = _SAMPLE if spec.of_parameter else _FEW
        self._lows: list[np.ndarray] = []
        self._highs: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._shape: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self._lows or self._values)

    def update(self, x: np.ndarray) -> None:
        """Take one tensor (one batch) into account."""
        if x.size == 0:
            return
        self._shape = tuple(x.shape[a] if self._is_channel(a, x.ndim) else 1 for a in range(x.ndim))
        if self._kept is not None:
            self._kept.append(_thinned(self._by_channel(x), self._most))
        if self._kind in ("threesigma", "percentile"):
            self._values.append(_thinned(self._by_channel(x)))
            return
        if self._kind == "mean_percentile":
            low, high = np.percentile(_thinned(self._by_channel(x)), self._percentiles, axis=1)
        elif self._kind == "mixed_min_max":
            samples = x.reshape(x.shape[0] if x.ndim > 1 else 1, -1)  # of one axis: values, and no batch of samples
            low, high = samples.min(1), samples.max(1)
            if self._symmetric:
                high = np.maximum(high, -low)
            self._lows.extend(low[:, None])
            self._highs.extend(high[:, None])
            return
        else:
            flat = self._by_channel(x)
            low, high = flat.min(1), flat.max(1)
        self._lows.append(low)
        self._highs.append(high)

    def result(self) -> Range:
        """The range, in the quantizer's broadcastable shape. Not to be called while empty."""
        low, high = self._bounds()
        if self._symmetric:
            magnitude = np.maximum(np.abs(low), np.abs(high)) if self._kind != "mixed_min_max" else high
            low = np.where(self._is_signed(low), -magnitude, 0 * magnitude)
            high = magnitude
        low, high = (end.reshape(self._shape).astype(np.float32) for end in (low, high))
        return Range(low, high, None if self._kept is None else np.concatenate(self._kept, axis=1))

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        if self._kind == "min_max":
            return np.min(self._lows, axis=0), np.max(self._highs, axis=0)
        if self._kind in ("mean_min_max", "mean_percentile"):
            return np.mean(self._lows, axis=0), np.mean(self._highs, axis=0)
        if self._kind == "mixed_min_max":
            low = np.min(self._lows, axis=0) if self._symmetric else np.mean(self._lows, axis=0)
            return low, np.mean(self._highs, axis=0)
        values = np.concatenate(self._values, axis=1)
        if self._kind == "percentile":
            low, high = np.percentile(values, self._percentiles, axis=1)
            return low, high
        bounds = [_three_sigma(channel) for channel in values]
        return np.array([low for low, _ in bounds]), np.array([high for _, high in bounds])

    def _is_signed(self, low: np.ndarray) -> np.ndarray:
        """Whether negative values were seen: the bound of `threesigma` may be negative where none were."""
        return low < 0 if self._kind != "threesigma" else np.min([values.min(1) for values in self._values], axis=0) < 0

    def _is_channel(self, axis: int, rank: int) -> bool:
        return self._axis is not None and axis == self._axis % rank

    def _by_channel(self, x: np.ndarray) -> np.ndarray:
        """`x` as (channels, values); one channel for per-tensor."""
        if self._axis is None:
            return x.reshape(1, -1)
        return np.moveaxis(x, self._axis, 0).reshape(x.shape[self._axis], -1)


def widest(ranges: Sequence[Range]) -> Range:
    """The range that holds all of `ranges`, of tensors that share a quantizer; with the fewest axes among them."""
    shape = min((r.low.shape for r in ranges), key=len)
    values = [r.values for r in ranges if r.values is not None]
    return Range(
        np.min([r.low.reshape(shape) for r in ranges], axis=0),
        np.max([r.high.reshape(shape) for r in ranges], axis=0),
        np.concatenate(values, axis=1) if values else None,
    )


def _thinned(values: np.ndarray, most: int = _SAMPLE) -> np.ndarray:
    stride = -(-values.shape[1] // max(most // values.shape[0], 1))
    return np.array(values[:, ::stride])


def _three_sigma(values: np.ndarray) -> tuple[float, float]:
    """median -/+ 3 * 1.4826 * MAD over the non-zero values, which may be wider than what was seen, as in NNCF 2.x."""
    nonzero: Any = values[values != 0]
    if nonzero.size == 0:
        return 0.0, 0.0
    median = np.median(nonzero)
    spread = 3 * 1.4826230 * np.median(np.abs(nonzero - median))
    return float(median - spread), float(median + spread)
