"""Whether two models compute the same, by their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CLOSE = 1e-4  # of the largest value of an output, in float32
_TINY = 1e-6  # outputs that are smaller are as good as zero


def largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """As a part of the largest finite value expected; infinite where the shapes differ, or one is no finite number and the other
    is another one."""
    if expected.shape != found.shape:
        return np.inf
    a, b = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    largest = np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0)
    return float(largest / max(np.abs(a[np.isfinite(a)]).max(initial=0), _TINY))


def are_close(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], tolerance: float) -> bool:
    """Whether equally many outputs differ by at most `tolerance` of their largest values."""
    return len(expected) == len(found) and all(
        largest_difference(a, b) <= tolerance for a, b in zip(expected, found, strict=True)
    )
