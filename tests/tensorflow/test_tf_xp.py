"""The fake-quantizer of the Keras namespace against the one that the framework differentiates by itself."""

import os
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from nncf_ext_tensorflow import xp

from nncf_ext import numerics, numpy_xp


def both(x, low, step, intervals, weights):
    results = []
    for function in (numerics.fake_quantize, numerics.fake_quantize_composite):
        tensors = [tf.constant(a, tf.float32) for a in (x, low, step)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(xp, *tensors, intervals)
            loss = tf.reduce_sum(y * weights)
        results.append((y, tape.gradient(loss, tensors)))
    return results


SHAPES = {"tensor": (1, 1), "last axis": (1, 6), "first axis": (4, 1), "scalar": ()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("intervals", [255, 254, 127, 15, 3, 1, 100])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), zero=st.floats(0, 1), exponent=st.floats(-6, 6))
def test_the_fused_form_equals_the_composite(shape, intervals, seed, zero, exponent):
    rng = np.random.default_rng(seed)
    step = np.exp(exponent + rng.normal(size=shape) * 0.3).astype(np.float32)
    low = (-np.round(zero * intervals) * step).astype(np.float32)
    x = (rng.normal(size=(4, 6)) * intervals * step).astype(np.float32)
    x[0] = (np.round(x[0] / step.flat[0]) + 0.5) * step.flat[0]  # ties, up to rounding
    (y, gradients), (y_composite, gradients_composite) = both(x, low, step, intervals, rng.normal(size=x.shape))
    np.testing.assert_array_equal(y, y_composite)
    np.testing.assert_array_equal(y, numerics.fake_quantize(numpy_xp, x, low, step, intervals))
    for a, b in zip(gradients, gradients_composite, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3 * intervals)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("levels", [(-128, 127), (-127, 127), (-64, 63), (0, 255), (-1, 1), (-2, 1), (0, 100)])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), exponent=st.floats(-6, 6))
def test_the_symmetric_form_equals_the_composite(shape, levels, seed, exponent):
    rng = np.random.default_rng(seed)
    scale = (np.exp(exponent + rng.normal(size=shape) * 0.3) * rng.choice([-1, 1], shape)).astype(np.float32)
    x = (rng.normal(size=(4, 6)) * scale).astype(np.float32)
    step = np.abs(scale.flat[0]) / levels[1]
    x[0] = (np.round(x[0] / step) + 0.5) * step  # ties, up to rounding
    weights, results = rng.normal(size=x.shape), []
    for namespace in (xp, SimpleNamespace(**{**vars(xp), "fused": {}})):
        tensors = [tf.constant(a) for a in (x, scale)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = numerics.fake_quantize_symmetric(namespace, *tensors, *levels)
            loss = tf.reduce_sum(y * weights)
        results.append((y, *tape.gradient(loss, tensors)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][0], numerics.fake_quantize_symmetric(numpy_xp, x, scale, *levels))
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_numbers_worked_by_hand():
    x = tf.constant([[-0.3, 0.2, 0.5, 1.5, 2.6, 9.0]])
    low, step = tf.constant([[0.0]]), tf.constant([[1.0]])
    with tf.GradientTape() as tape:
        tape.watch([x, low, step])
        y = xp.fused["fake_quantize"](x, low, step, 3)
    dx, dlow, dstep = tape.gradient(y, [x, low, step])
    np.testing.assert_array_equal(y, [[0, 0, 0, 2, 3, 3]])  # half to even
    np.testing.assert_array_equal(dx, [[0, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(dlow, [[2]])
    np.testing.assert_allclose(dstep, [[-0.2 - 0.5 + 0.5 + 0.4 + 3]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6)])
def test_it_compiles(shape):
    rng = np.random.default_rng(0)
    x, step = tf.constant(rng.normal(size=(4, 6)), tf.float32), tf.constant(rng.random(shape) / 20 + 0.01, tf.float32)

    def run(x, step):
        with tf.GradientTape() as tape:
            tape.watch([x, step])
            y = xp.fused["fake_quantize"](x, -8 * step, step, 15)
        return [y, *tape.gradient(y, [x, step])]

    for a, b in zip(tf.function(run, jit_compile=True)(x, step), run(x, step), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_namespace_has_numpys_semantics():
    x = np.array([[3.0, 1.0, 2.0]], np.float32)
    for name in (
        "abs",
        "round",
        "sqrt",
        "square",
        "exp",
        "log",
        "sigmoid",
        "softmax",
        "log_softmax",
        "sort",
        "argsort",
        "cumsum",
    ):
        np.testing.assert_allclose(getattr(xp, name)(x), getattr(numpy_xp, name)(x), rtol=1e-6)
    for name in ("sum", "mean", "min", "max"):
        np.testing.assert_allclose(getattr(xp, name)(x, axis=1, keepdims=True), getattr(numpy_xp, name)(x, axis=1, keepdims=True))
    np.testing.assert_array_equal(xp.clip(x, 1.5, 2.5), [[2.5, 1.5, 2.0]])
    assert float(xp.kth_smallest(xp.asarray(x[0]), 2)) == 2
    assert xp.cast_like(xp.asarray(1), xp.asarray(x)).dtype == tf.float32
