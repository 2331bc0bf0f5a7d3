"""The mathematics, written once over an array namespace `xp`.

`xp` is numpy (`nncf_ext.numpy_xp`), torch (`nncf_ext_torch.xp`) or keras.ops (`nncf_ext_tensorflow.xp`). Besides array
functions with numpy's names and arguments it has `stop_gradient(x)`; it may offer `fused`, a dict of replacements for functions
below by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nncf_ext import noise

SMALLEST = 1e-16  # keeps a learned range from becoming zero


_differentiated_twice = False


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within, forward passes of compressed models can be differentiated twice: for gradient penalties, Hessians, meta-learning.

    The second derivatives are those of straight-through estimates, in which the grid of a quantizer and its codes are constant.
    Slower, and with more memory, as no compiled kernel is used. For the whole process; compiled functions are as when they were
    traced.
    """
    global _differentiated_twice
    before, _differentiated_twice = _differentiated_twice, True
    try:
        yield
    finally:
        _differentiated_twice = before


def _fused(xp: Any, name: str, *args: Any) -> Any:
    """What the namespace's fused form makes of `args`; None where it has none, or none for such arrays."""
    form = None if _differentiated_twice else getattr(xp, "fused", {}).get(name)
    return None if form is None else form(*args)


def straight_through(xp: Any, value: Any, x: Any) -> Any:
    """`value` forward, the gradient of `x` backward. In this order the forward value is bit-exact (Bengio et al. 2013)."""
    return xp.stop_gradient(value) + (x - xp.stop_gradient(x))


def scale_gradient(xp: Any, x: Any, factor: float) -> Any:
    """`x` forward, bit-exact; its gradient times `factor`. Integers, which have none, are given back."""
    if not xp.is_floating(x):
        return x
    y = _fused(xp, "scale_gradient", x, factor)
    if y is not None:
        return y
    constant = xp.stop_gradient(x)
    return constant + (x - constant) * factor


def fake_quantize(xp: Any, x: Any, low: Any, step: Any, intervals: int) -> Any:
    """Round `x` to the grid {low + k*step, k = 0..intervals}, shifted by less than a step so that it contains zero.

    low, step: broadcastable to x (0 <= -low/step <= intervals, step > 0); rounding is half to even.
    Gradients (Esser et al. 2020, eq. 3, for a grid with an offset): with v = x/step, z = round(-low/step),
    I = [-z <= v <= intervals - z], H above and L below it:  dx = I,  dlow = H + L,  dstep = I*(round(v) - v) + H*intervals.
    """
    y = _fused(xp, "fake_quantize", x, low, step, intervals)
    if y is not None:
        return y
    return fake_quantize_composite(xp, x, low, step, intervals)


def fake_quantize_composite(xp: Any, x: Any, low: Any, step: Any, intervals: int) -> Any:
    """`fake_quantize` as the framework differentiates it by itself; what every fused form is compared with."""
    zero = xp.round(-xp.stop_gradient(low) / xp.stop_gradient(step))
    v = xp.stop_gradient(x) / xp.stop_gradient(step)
    below, above = v < -zero, v > intervals - zero
    code = xp.clip(xp.round(v), -zero, intervals - zero)
    value = code * xp.stop_gradient(step)
    inside = x + (step - xp.stop_gradient(step)) * (code - v)
    outside = low + step * intervals * xp.cast_like(above, x)
    return straight_through(xp, value, xp.where(below | above, outside, inside))


def symmetric_grid(xp: Any, scale: Any, lowest: int, highest: int) -> tuple[Any, Any]:
    """(low, step) of the grid of the integers lowest..highest on which `highest` is worth |scale|."""
    step = (xp.abs(scale) + SMALLEST) / highest
    return step * lowest, step


def fake_quantize_symmetric(xp: Any, x: Any, scale: Any, lowest: int, highest: int) -> Any:
    """`fake_quantize` on `symmetric_grid`:  dscale = (dstep + lowest * dlow) / highest * sign(scale)."""
    y = _fused(xp, "fake_quantize_symmetric", x, scale, lowest, highest)
    if y is not None:
        return y
    return fake_quantize(xp, x, *symmetric_grid(xp, scale, lowest, highest), highest - lowest)


def quantize_codes(xp: Any, x: Any, low: Any, step: Any, intervals: int) -> Any:
    """Integer codes 0..intervals of `fake_quantize(x)`: value = (code - zero_point) * step with `zero_point` below."""
    zero = zero_point(xp, low, step)
    return xp.clip(xp.round(x / step), -zero, intervals - zero) + zero


def zero_point(xp: Any, low: Any, step: Any) -> Any:
    return xp.round(-low / step)


def grid_through_zero(xp: Any, low: Any, span: Any, intervals: int) -> tuple[Any, Any]:
    """The range [low, low + span], widened until zero is on its grid of `intervals` steps; an end closer to zero than half a
    step becomes zero.

    Returns (low, span). Gradients pass unchanged. (NNCF 2.x `TuneRange`, which misses that last case.)
    """
    low0, high0 = xp.minimum(low, xp.zeros_like(low)), xp.maximum(low + span, xp.zeros_like(low))
    low0, high0 = xp.stop_gradient(low0), xp.stop_gradient(high0)
    zero = xp.round(-low0 * intervals / (high0 - low0))
    safe_low = xp.where(zero < intervals, zero - intervals, -xp.ones_like(zero))
    safe_high = xp.where(zero > 0, zero, xp.ones_like(zero))
    low1 = xp.where(zero < intervals, zero / safe_low * high0, low0)
    high1 = xp.where(zero > 0, (zero - intervals) / safe_high * low0, high0)
    widen_low = (zero == 0) | ((zero < intervals) & ((high0 - low1) > (high1 - low0)))
    new_low = xp.where(widen_low, low1, low0)
    new_span = xp.where(widen_low, high0, high1) - new_low
    return straight_through(xp, new_low, low), straight_through(xp, new_span, span)


def masked_by_score(xp: Any, x: Any, score: Any, rows: Any = None) -> Any:
    """x * [score + noise > 0], which is x where a hard sample of sigmoid(score) is 1 (Louizos et al. 2018 without stretching).

    rows: of `noise.logistic`; None for no noise. Straight through the threshold: dx = g * mask, dscore = g * x * sigmoid'(score +
    noise).
    """
    y = _fused(xp, "masked_by_score", x, score, rows)
    return masked_by_score_composite(xp, x, score, rows) if y is None else y


def masked_by_score_composite(xp: Any, x: Any, score: Any, rows: Any = None) -> Any:
    """`masked_by_score` as the framework differentiates it by itself."""
    noisy = score if rows is None else score + noise.logistic(xp, rows, tuple(score.shape))
    return x * xp.cast_like(_kept(xp, noisy), x)


def kept_count(xp: Any, score: Any) -> Any:
    """How many scores are positive, as a float: dscore = g * sigmoid'(score)."""
    count = _fused(xp, "kept_count", score)
    return xp.sum(_kept(xp, score)) if count is None else count


def _kept(xp: Any, score: Any) -> Any:
    """1 where the score is positive, else 0; the gradient of its sigmoid."""
    return straight_through(xp, xp.cast_like(score > 0, score), xp.sigmoid(score))


def product_decoded(xp: Any, codebook: Any, codes: Any, shape: tuple[int, ...], axis: int) -> Any:
    """The array of `shape` whose sub-vectors along `axis` have these numbers in the code books of their subspaces.

    codebook: (M, K, d), where M * d is the size of the axis. codes: (M, all other axes in their order, flattened), from 0 to
    K - 1. A codeword's gradient is the sum over the sub-vectors that it stands for.
    """
    subspaces, codewords, subvector = (int(size) for size in codebook.shape)
    first = xp.asarray(np.arange(subspaces, dtype=np.int32)[:, None] * codewords, like=codes)
    vectors = xp.take(xp.reshape(codebook, (subspaces * codewords, subvector)), xp.reshape(codes + first, (-1,)), axis=0)
    parts = xp.moveaxis(xp.reshape(vectors, (subspaces, codes.shape[1], subvector)), 2, 1)
    others = (size for a, size in enumerate(shape) if a != axis)
    return xp.moveaxis(xp.reshape(parts, (shape[axis], *others)), 0, axis)


def decoded(xp: Any, x: Any, codes: Any, centroids: Any) -> Any:
    """The values that integer codes stand for: 0 for zero, n > 0 for centroids[n - 1], -1 for x itself. Where x is 0, 0.

    dx = g where the code is -1, else 0; dcentroids[n - 1] = the sum of g where the code is n and x is not 0 (Han et al. 2016,
    eq. 3).
    """
    y = _fused(xp, "decoded", x, codes, centroids)
    return decoded_composite(xp, x, codes, centroids) if y is None else y


def decoded_composite(xp: Any, x: Any, codes: Any, centroids: Any) -> Any:
    """`decoded` as the framework differentiates it by itself."""
    table = xp.concatenate([xp.zeros_like(centroids[:1]), centroids])
    values = xp.reshape(xp.take(table, xp.reshape(xp.maximum(codes, 0), (-1,)), axis=0), tuple(codes.shape))
    return xp.where(codes < 0, x, xp.where(x == 0, xp.zeros_like(x), xp.cast_like(values, x)))
