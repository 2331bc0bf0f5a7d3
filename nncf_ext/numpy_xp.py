"""The array namespace `xp` in plain numpy: the oracle that every adapter is compared with. It has no gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import (  # noqa: F401  (these functions are the namespace)
    abs,
    clip,
    concatenate,
    count_nonzero,
    cumsum,
    exp,
    log,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    moveaxis,
    ones_like,
    reshape,
    right_shift,
    round,
    sign,
    sort,
    sqrt,
    square,
    stack,
    sum,
    take,
    tanh,
    where,
    zeros_like,
)


def stop_gradient(x: Any) -> Any:
    return x


def cast_like(x: Any, like: Any) -> Any:
    return np.asarray(x).astype(np.asarray(like).dtype)


def asarray(x: Any, like: Any = None) -> Any:
    return np.asarray(x, dtype=None if like is None else np.asarray(like).dtype)


def constant(make: Callable[[], np.ndarray], like: Any) -> Any:
    """What `make` gives, as an array where `like` is; it always gives the same."""
    return make()


def rows_joined(x: Any, rows: Any, size: int) -> Any:
    """The first `size` elements of these rows of the matrix `x`, side by side."""
    return np.reshape(np.take(x, rows, axis=0), -1)[:size]


def at_indices(x: Any, indices: Any, values: Any) -> Any:
    """`x` with `values` at `indices` (of its last axis) instead."""
    y = np.array(x)
    np.put_along_axis(y, indices, values, -1)
    return y


def rounded_to(x: Any, dtype: str) -> Any:
    """`x` rounded to the numbers of a narrower floating point type, half to even; it must be within their range."""
    import ml_dtypes

    return np.asarray(x).astype(getattr(ml_dtypes, dtype)).astype(np.asarray(x).dtype)


def float_bits(x: Any) -> Any:
    """The bits of `x` as float32, as int32: of positive numbers in their order, of negative ones with the lowest bit set."""
    return np.asarray(x).astype(np.float32).view(np.int32)


def float_from_bits(bits: Any) -> Any:
    return np.asarray(bits).view(np.float32)


def segment_sum(x: Any, segments: Any, count: int) -> Any:
    """The sum of the elements of the flat `x` in each of `count` segments: those for which `segments` (int32) has its number."""
    return np.bincount(segments, weights=x, minlength=count).astype(x.dtype)


def is_floating(x: Any) -> bool:
    return np.issubdtype(np.asarray(x).dtype, np.floating)


def argsort(x: Any, axis: int = -1) -> Any:
    return np.argsort(x, axis=axis, kind="stable")


def kth_smallest(x: Any, k: int) -> Any:
    """The k-th smallest element (k >= 1) of a flat array."""
    return np.partition(x, k - 1)[k - 1]


def sigmoid(x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def log_softmax(x: Any, axis: int = -1) -> Any:
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def softmax(x: Any, axis: int = -1) -> Any:
    return np.exp(log_softmax(x, axis))
