"""The array namespace `xp` over keras.ops, with a fake-quantizer that is cheap in TensorFlow's graph mode on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.ops import (  # noqa: F401  (these functions are the namespace)
    abs,
    argsort,
    clip,
    concatenate,
    count_nonzero,
    cumsum,
    exp,
    log,
    log_softmax,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    moveaxis,
    ones_like,
    reshape,
    round,
    sigmoid,
    sign,
    softmax,
    sort,
    sqrt,
    square,
    stop_gradient,
    sum,
    take,
    tanh,
    where,
    zeros_like,
)

from nncf_ext import numerics


def cast_like(x: Any, like: Any) -> Any:
    return keras.ops.cast(x, like.dtype)


def asarray(x: Any, like: Any = None) -> Any:
    return keras.ops.convert_to_tensor(x, dtype=None if like is None else like.dtype)


def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    return tf.stack([tf.convert_to_tensor(x) for x in arrays], axis)  # Keras' own leaves variables unread


def constant(make: Callable[[], np.ndarray], like: Any = None) -> Any:
    """What `make` gives, made once; functions that TensorFlow traces capture it."""
    return _constant(make)


@functools.cache
def _constant(make: Callable[[], np.ndarray]) -> Any:
    with tf.init_scope():
        return tf.constant(make())


def rows_joined(x: Any, rows: Any, size: int) -> Any:
    """The first `size` elements of these rows of the matrix `x`, side by side."""
    return tf.reshape(tf.gather(x, rows), (-1,))[:size]


def at_indices(x: Any, indices: Any, values: Any) -> Any:
    """`x` with `values` at `indices` (of its last axis) instead."""
    classes = tf.shape(x)[-1]
    first = tf.range(tf.size(x) // classes)[:, None] * classes
    at = first + tf.cast(tf.reshape(indices, (-1, tf.shape(indices)[-1])), tf.int32)
    changed = tf.tensor_scatter_nd_update(tf.reshape(x, (-1,)), tf.reshape(at, (-1, 1)), tf.reshape(values, (-1,)))
    return tf.reshape(changed, tf.shape(x))


def rounded_to(x: Any, dtype: str) -> Any:
    """`x` rounded to the numbers of a narrower floating point type, half to even; it must be within their range."""
    return tf.cast(tf.cast(x, dtype), x.dtype)


def float_bits(x: Any) -> Any:
    """The bits of `x` as float32, as int32: of positive numbers in their order, of negative ones with the lowest bit set."""
    return tf.bitcast(tf.cast(x, tf.float32), tf.int32)


def float_from_bits(bits: Any) -> Any:
    return tf.bitcast(bits, tf.float32)


def right_shift(x: Any, y: int) -> Any:
    return tf.bitwise.right_shift(x, y)


def segment_sum(x: Any, segments: Any, count: int) -> Any:
    """The sum of the elements of the flat `x` in each of `count` segments: those for which `segments` (int32) has its number."""
    wide = tf.cast(x, tf.float64) if x.dtype.is_floating else x
    return tf.cast(tf.math.unsorted_segment_sum(wide, segments, count), x.dtype)


def is_floating(x: Any) -> bool:
    return keras.backend.is_float_dtype(x.dtype)


def kth_smallest(x: Any, k: int) -> Any:
    """The k-th smallest element (k >= 1) of a flat eager array. Selection in numpy: TensorFlow only has a full sort."""
    values: Any = keras.ops.convert_to_numpy(x)
    return asarray(np.partition(values, k - 1)[k - 1])


def _fake_quantize(x: Any, low: Any, step: Any, intervals: int) -> Any:
    """`numerics.fake_quantize`: the same output bit for bit, and gradients in few passes over memory.

    One range for the whole tensor goes through TensorFlow's own gradient kernel: on x/step its grid is the integers, which it
    represents exactly, so it finds the same elements in range as the composite does; it lacks the gradient of the step within
    the range, which is added here.
    """
    x, low, step = (keras.ops.convert_to_tensor(a) for a in (x, low, step))
    bits = (intervals + 1).bit_length() - 1 if _is_power_of_two(intervals + 1) else (intervals + 2).bit_length() - 1
    has_kernel = 2**bits - intervals in (1, 2) and 2 <= bits <= 16
    is_per_tensor = low.shape.num_elements() == 1 and step.shape.num_elements() == 1

    @tf.custom_gradient
    def quantized(x: Any, low: Any, step: Any) -> Any:
        zero = tf.round(-low / step)
        first, last = -zero, intervals - zero
        v = x / step
        clipped = _clip_to_scalars(v, first, last) if is_per_tensor else tf.minimum(tf.maximum(v, first), last)
        y = tf.round(clipped) * step  # the bounds are integers: rounding after clipping is the same

        def kernel_gradient(g: Any) -> Any:
            dx, below, above = tf.raw_ops.FakeQuantWithMinMaxVarsGradient(
                gradients=g,
                inputs=v,
                min=tf.reshape(first, ()),
                max=tf.reshape(last, ()),
                num_bits=bits,
                narrow_range=2**bits - intervals == 2,
            )
            d_step = tf.reduce_sum(dx * (y - x)) / tf.reshape(step, ()) + intervals * above
            return dx, tf.reshape(below + above, low.shape), tf.reshape(d_step, step.shape)

        def gradient(g: Any) -> Any:  # products with a mask and ReluGrad, because tf.where takes four times as long
            dx = g * tf.cast(tf.equal(clipped, v), g.dtype)
            outside = g - dx
            above = tf.raw_ops.ReluGrad(gradients=outside, features=v)  # where v is out of range, v > 0 is above it
            d_step = _sum_to(dx * (y - x), step) / step + intervals * _sum_to(above, step)
            return dx, _sum_to(outside, low), d_step

        return y, kernel_gradient if has_kernel and is_per_tensor else gradient

    return quantized(x, low, step)


def _clip_to_scalars(v: Any, first: Any, last: Any) -> Any:
    """One pass over memory instead of tf.clip_by_value's two."""
    return tf.raw_ops.ClipByValue(t=v, clip_value_min=tf.reshape(first, ()), clip_value_max=tf.reshape(last, ()))


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _sum_to(x: Any, like: Any) -> Any:
    """Sum over the axes along which `like` was broadcast to `x`."""
    missing = len(x.shape) - len(like.shape)
    x = tf.reduce_sum(x, axis=list(range(missing)))
    return tf.reduce_sum(x, axis=[a for a, size in enumerate(like.shape) if size == 1], keepdims=True)


def _fake_quantize_symmetric(x: Any, scale: Any, lowest: int, highest: int) -> Any:
    """`numerics.fake_quantize_symmetric`: the same output bit for bit.

    On x/step all channels have one grid, the integers lowest..highest: clipping and TensorFlow's gradient kernel take constants.
    With v = x/step, its code q, and I = [v within the grid]:  dx = I*g,  dscale = sum(g*q - dx*v) / highest * sign(scale).
    """
    x, scale = (tf.convert_to_tensor(a) for a in (x, scale))  # Keras' own leaves variables unread
    bits = (highest - lowest).bit_length()
    narrow = highest - lowest == 2**bits - 2

    @tf.custom_gradient
    def quantized(x: Any, scale: Any) -> Any:
        _, step = numerics.symmetric_grid(keras.ops, scale, lowest, highest)
        v = x / step
        codes = tf.round(tf.raw_ops.ClipByValue(t=v, clip_value_min=float(lowest), clip_value_max=float(highest)))

        def gradient(g: Any) -> Any:
            dx, below, above = tf.raw_ops.FakeQuantWithMinMaxVarsGradient(
                gradients=g, inputs=v, min=float(lowest), max=float(highest), num_bits=bits, narrow_range=narrow
            )
            if scale.shape.num_elements() == 1:
                total = tf.reshape(tf.reduce_sum(dx * (codes - v)) + highest * above + lowest * below, scale.shape)
            else:
                total = _sum_to(g * codes - dx * v, scale)
            return dx, total / highest * tf.sign(scale)

        return codes * step, gradient

    if bits < 2 or not (narrow or highest - lowest == 2**bits - 1):  # a grid that the kernel does not know
        return _fake_quantize(x, *numerics.symmetric_grid(keras.ops, scale, lowest, highest), highest - lowest)
    return quantized(x, scale)


fused = {"fake_quantize": _fake_quantize, "fake_quantize_symmetric": _fake_quantize_symmetric}
