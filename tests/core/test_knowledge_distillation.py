"""Distillation losses: hand-worked numbers and invariants."""

import numpy as np
import pytest

from nncf_ext import reference as xp
from nncf_ext.algorithms.knowledge_distillation import mean_squared_error, soft_cross_entropy


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
    with pytest.raises(ValueError, match=r"softmax needs class scores.*\(1, 2, 4, 4\).*mse"):
        soft_cross_entropy(xp, np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4)), 1.0)
