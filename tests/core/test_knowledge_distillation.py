"""Distillation losses: hand-worked numbers and invariants."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from nncf_ext import NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.distillation.losses import (
    attention_difference,
    difference_of,
    divergence,
    mean_squared_error,
    projected,
    soft_cross_entropy,
)

temperatures = st.floats(0.5, 20)


def gradient(student, teacher, temperature, h=1e-6):
    result = np.zeros_like(student)
    for i in range(student.size):
        d = np.zeros_like(student)
        d.flat[i] = h
        up = soft_cross_entropy(xp, student + d, teacher, temperature)
        result.flat[i] = (up - soft_cross_entropy(xp, student - d, teacher, temperature)) / (2 * h)
    return result


@pytest.mark.parametrize(
    "temperature, expected",
    [(1.0, [0.2433, 0.0886, -0.3319]), (4.0, [0.3162, 0.0274, -0.3436]), (1000.0, [1 / 3, 0, -1 / 3])],
)
def test_gradient_of_the_toy_example(temperature, expected):
    """teacher [1, 2, 3], student [1, 1, 1]: T * (softmax(s/T) - softmax(t/T)); for large T a third of the logit difference."""
    got = gradient(np.ones((1, 3)), np.array([[1.0, 2.0, 3.0]]), temperature)
    assert got[0] == pytest.approx(expected, abs=1e-3)


def test_equal_outputs_have_no_gradient():
    logits = np.array([[0.3, -1.0, 2.0]])
    assert gradient(logits, logits, 2.0)[0] == pytest.approx([0, 0, 0], abs=1e-6)
    assert mean_squared_error(xp, logits, logits) == 0


def test_sequences_are_averaged_over_positions():
    student, teacher = np.zeros((2, 5, 3)), np.zeros((2, 5, 3))
    assert soft_cross_entropy(xp, student, teacher, 1.0) == pytest.approx(np.log(3))


def test_an_image_sized_output_is_refused():
    with pytest.raises(ValueError, match=r"softmax and kl need class scores.*\(1, 2, 4, 4\).*mse"):
        soft_cross_entropy(xp, np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4)), 1.0)


@given(arrays(np.float64, (4, 5), elements=st.floats(-8, 8)), arrays(np.float64, (4, 5), elements=st.floats(-8, 8)), temperatures)
def test_the_divergence_is_the_cross_entropy_less_the_entropy(student, teacher, temperature):
    """So it is never negative, and zero where both agree; logits may be shifted."""
    kl = divergence(xp, student, teacher, temperature)
    own = soft_cross_entropy(xp, teacher, teacher, temperature)
    assert kl == pytest.approx(soft_cross_entropy(xp, student, teacher, temperature) - own, abs=1e-9)
    assert kl >= -1e-12
    assert divergence(xp, teacher + 3, teacher, temperature) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**10 - 1), temperatures)
def test_only_tokens_count(bits, temperature):
    """Over tokens of sequences the loss is that of the tokens alone, whatever stands at padded positions, NaN too."""
    rng = np.random.default_rng(bits)
    student, teacher = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 3))
    valid = np.array([bits >> i & 1 for i in range(10)], bool).reshape(2, 5)
    student[~valid], teacher[~valid] = np.nan, 1e30
    for loss in (soft_cross_entropy, divergence):
        got = loss(xp, student, teacher, temperature, valid)
        want = loss(xp, student[valid], teacher[valid], temperature) if valid.any() else 0
        assert got == pytest.approx(want)
    got = mean_squared_error(xp, student, teacher, valid)
    assert got == pytest.approx(mean_squared_error(xp, student[valid], teacher[valid]) if valid.any() else 0)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"valid positions have shape \(2, 4\), those of an output \(2, 5\)"):
        divergence(xp, np.zeros((2, 5, 3)), np.zeros((2, 5, 3)), 1.0, np.ones((2, 4), bool))


def test_outputs_that_differ_are_named():
    assert difference_of([(8, 3)], [(8, 3)]) == difference_of([(None, 3)], [(8, 3)]) == ""
    assert difference_of([(8, 3)], [(8, 10)], (["logits"], [""])) == (
        "output logits of the model has shape (8, 3), output 0 of the teacher (8, 10)"
    )
    assert difference_of([(8, 3)], [(8, 3), (8, 2)], (["a"], ["b", "c"])) == (
        "the model has 1 outputs (a (8, 3)) and the teacher 2 outputs (b (8, 3), c (8, 2))"
    )


def test_the_weights_of_both_losses():
    entry = {"algorithm": "knowledge_distillation", "type": "kl"}

    def weights(**keys):
        (algorithm,) = NNCFConfig.from_dict({"compression": {**entry, **keys}}).algorithms()
        return algorithm.weight_of_task, algorithm.factor

    assert weights() == (1, 1) and weights(scale=3) == (1, 3)
    assert weights(task_weight=0.25) == (0.25, 0.75) and weights(task_weight=0.25, scale=2) == (0.25, 2)


def test_attention_maps_by_hand():
    """Two channels at two positions: squares [[9, 0], [16, 0]] sum to the map [25, 0]; the other one's is [1, 1]."""
    student, teacher = np.array([[[3.0, 0], [4, 0]]]), np.array([[[1.0, 0], [0, 1]]])
    want = (1 - 0.5**0.5) ** 2 + 0.5
    assert attention_difference(xp, student, teacher, 1) == pytest.approx(want)
    assert attention_difference(xp, np.moveaxis(student, 1, -1), np.moveaxis(teacher, 1, -1), -1) == pytest.approx(want)
    assert attention_difference(xp, 7 * student, student, 1) == pytest.approx(0)  # a map is where, not how much
    assert np.isfinite(attention_difference(xp, 0 * student, teacher, 1))


@given(st.integers(0, 100), st.sampled_from([1, -1, 3]))
def test_a_projection_works_on_channels(seed, axis):
    rng = np.random.default_rng(seed)
    x, p = rng.normal(size=(2, 3, 4, 3)), rng.normal(size=(3, 5))
    got = projected(xp, x, p, axis)
    assert got.shape == ((2, 5, 4, 3) if axis == 1 else (2, 3, 4, 5))
    np.testing.assert_allclose(got, np.einsum("nchw,cd->ndhw" if axis == 1 else "nhwc,cd->nhwd", x, p))
