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


def smallest_left(xp: Any, bits: Any, share: float) -> tuple[Any, Any]:
    """(size of the smallest, number) of each sign's elements, [negative, positive], of which the smallest floor(share * number)
    do not count.

    bits: `xp.float_bits` of flat elements; zeros have no sign. share: less than 1. Infinity where a sign has no elements. Two
    histograms instead of a sort, which takes ten times as long: of the upper half of the bits, and of the lower half of those
    that have the upper half found.
    """
    upper = xp.right_shift(bits, 16) + _HALF
    lower = bits & 0xFFFF
    one = xp.ones_like(bits)
    counts = xp.reshape(xp.segment_sum(one, upper, 2 * _HALF), (2, _HALF))
    zeros = xp.cast_like(xp.stack([xp.count_nonzero(bits == _MINUS_ZERO), xp.count_nonzero(bits == 0)]), bits)
    number = xp.cast_like(xp.sum(counts, axis=1), bits) - zeros
    gone = xp.cast_like(xp.float_from_bits(xp.float_bits(number)) * share, bits)
    rank = zeros + xp.maximum(xp.minimum(gone, number - 1), 0)
    first, rank = _at_rank(xp, counts, rank)
    inside = xp.where(upper == first[1] + _HALF, lower + 2 * _HALF, xp.where(upper == first[0], lower, 4 * _HALF * one))
    counts = xp.reshape(xp.segment_sum(one, inside, 4 * _HALF + 1)[:-1], (2, 2 * _HALF))
    second, _ = _at_rank(xp, counts, rank)
    found = xp.minimum(first, _HALF - 1) * (2 * _HALF) + second
    return xp.float_from_bits(xp.where(number > 0, found, _INFINITY * xp.ones_like(found))), number


_HALF, _MINUS_ZERO, _INFINITY = 2**15, -(2**31), 0x7F800000


def _at_rank(xp: Any, counts: Any, rank: Any) -> tuple[Any, Any]:
    """Of each row of a histogram, the bin that has the element at a rank (from 0), and its rank in the bin."""
    before = xp.cast_like(xp.cumsum(counts, axis=1) <= xp.reshape(rank, (-1, 1)), counts)
    return xp.cast_like(xp.sum(before, axis=1), rank), rank - xp.cast_like(xp.sum(before * counts, axis=1), rank)
