"""How much a filter (the weights of one output channel) matters: what structured pruning ranks by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Importance = Literal["L1", "L2", "geometric_median"]


def unit_importance(xp: Any, weights: Sequence[tuple[Any, int, Sequence[int]]], size: int, kind: Importance) -> Any:
    """Importance of each of `size` units, shape (size,). A unit is what can be removed by itself: a filter, an attention head.

    weights: those that make the units, several in recurrent layers: (weight, axis, units), with for every index along the axis
    the unit that it belongs to, -1 for none.
    L1, L2: norm of all the unit's weights. geometric_median: sum of the L2 distances to the other units, so that the most
    replaceable is the smallest (He et al. 2019, eq. 6).
    """
    parts = [_by_unit(xp, _in_float32(xp, weight), axis, np.asarray(units), size) for weight, axis, units in weights]
    filters = parts[0] if len(parts) == 1 else xp.concatenate(parts, axis=1)
    if kind == "L1":
        return xp.sum(xp.abs(filters), axis=1)
    if kind == "L2":
        return xp.sqrt(xp.sum(xp.square(filters), axis=1))
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab; distances do not depend on the origin, and close to the mean little cancels
    centred = filters - xp.mean(filters, axis=0, keepdims=True)
    products = xp.matmul(centred, xp.moveaxis(centred, 0, 1))
    squares = xp.sum(xp.square(centred), axis=1, keepdims=True)
    distances = xp.sqrt(xp.maximum(squares + xp.moveaxis(squares, 0, 1) - 2 * products, xp.zeros_like(products)))
    different = xp.cast_like(xp.asarray(1 - np.eye(size, dtype=np.float32)), distances)  # rounding leaves |a - a| above zero
    return xp.sum(distances * different, axis=1)


def norm(xp: Any, weights: Sequence[Any]) -> Any:
    """L2 norm of whole tensors together; 1 where all are zero, so that one may divide by it."""
    found = xp.sqrt(sum(xp.sum(xp.square(_in_float32(xp, weight))) for weight in weights))
    return xp.where(found > 0, found, xp.ones_like(found))


def _in_float32(xp: Any, weight: Any) -> Any:
    """Sums over a filter are too coarse in half precision."""
    return xp.cast_like(xp.stop_gradient(weight), xp.asarray(np.float32(0)))


def _by_unit(xp: Any, weight: Any, axis: int, units: np.ndarray, size: int) -> Any:
    """(size, weights of a unit). Units with fewer indices than others are filled up with zeros."""
    rows = xp.reshape(xp.moveaxis(weight, axis, 0), (len(units), -1))
    if len(units) == size and (units == np.arange(size)).all():
        return rows
    members = [np.flatnonzero(units == unit) for unit in range(size)]
    longest = max(len(indices) for indices in members)
    places = np.stack([np.pad(indices, (0, longest - len(indices)), constant_values=len(units)) for indices in members])
    padded = xp.concatenate([rows, xp.zeros_like(rows[:1])])
    return xp.reshape(xp.take(padded, xp.asarray(places.reshape(-1)), axis=0), (size, -1))
