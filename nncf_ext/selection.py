"""Which elements are the largest: exactly so many, and of equal ones the same in every framework."""

from __future__ import annotations

from typing import Any

import numpy as np


def keep_largest(xp: Any, score: Any, kept: int) -> Any:
    """Boolean: among the `kept` largest of the flat eager `score`. Of equal ones the first in index order are not kept."""
    size = int(score.shape[0])
    if kept >= size:
        return score == score
    if kept <= 0:
        return score != score
    threshold = xp.kth_smallest(score, size - kept)
    keep = score > threshold
    missing = kept - int(xp.count_nonzero(keep))
    if missing == 0:
        return keep
    tied = score == threshold
    one = xp.asarray(np.int32(0))
    spare = int(xp.count_nonzero(tied)) - missing
    return keep | (tied & (xp.cumsum(xp.cast_like(tied, one)) > spare))


def descending_ranks(xp: Any, score: Any) -> Any:
    """Positions of the elements of the (rows, columns) `score` in their row, the largest being 0; of equal ones the first."""
    return xp.argsort(xp.argsort(-score, axis=-1), axis=-1)


def n_of_m(xp: Any, size: Any, n: int) -> Any:
    """1 for the n largest in each row of the (rows, m) `size`, else 0; of equal ones the first. m passes, which compiled
    functions may contain."""
    columns = [size[:, j : j + 1] for j in range(int(size.shape[1]))]
    masks = []
    for i, own in enumerate(columns):
        ahead = [xp.cast_like(other >= own if j < i else other > own, own) for j, other in enumerate(columns) if j != i]
        masks.append(xp.cast_like(sum(ahead[1:], ahead[0]) < n, own))
    return xp.concatenate(masks, axis=1)
