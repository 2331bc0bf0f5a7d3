"""Importance of filters: worked by hand, and against definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nncf_ext import numpy_xp as xp
from nncf_ext.sparsity.importance import norm, unit_importance

FILTERS = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, -2.0]], np.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("L1", [7, 1, 2]),
        ("L2", [5, 1, 2]),
        # distances: |a-b| = sqrt(18), |a-c| = sqrt(45), |b-c| = 3
        ("geometric_median", [18**0.5 + 45**0.5, 18**0.5 + 3, 45**0.5 + 3]),
    ],
)
def test_by_hand(kind, expected):
    assert unit_importance(xp, [(FILTERS, 0, range(3))], 3, kind) == pytest.approx(expected)
    assert unit_importance(xp, [(FILTERS.T, 1, range(3))], 3, kind) == pytest.approx(expected)


def test_a_unit_of_several_channels():
    """Heads {0, 2} and {1}: norms sqrt(25 + 4) and 1, distance sqrt(9 + 9 + 4), the short one filled up with zeros."""
    assert unit_importance(xp, [(FILTERS, 0, (0, 1, 0))], 2, "L2") == pytest.approx([29**0.5, 1])
    assert unit_importance(xp, [(FILTERS, 0, (0, 1, 0))], 2, "geometric_median") == pytest.approx([22**0.5] * 2)


def test_a_unit_that_several_weights_make():
    """Rows of both: (3, 4, 2), (0, 1, 0), (0, -2, 3): the distances are sqrt(9 + 9 + 4), sqrt(9 + 36 + 1) and sqrt(9 + 9)."""
    weights = [(FILTERS, 0, range(3)), (np.array([[2.0, 0.0, 3.0]], np.float32), 1, range(3))]
    assert unit_importance(xp, weights, 3, "L1") == pytest.approx([9, 1, 5])
    assert unit_importance(xp, weights, 3, "L2") == pytest.approx([29**0.5, 1, 13**0.5])
    expected = [22**0.5 + 46**0.5, 22**0.5 + 18**0.5, 46**0.5 + 18**0.5]
    assert unit_importance(xp, weights, 3, "geometric_median") == pytest.approx(expected)


def test_channels_of_no_unit_are_left_out():
    assert unit_importance(xp, [(FILTERS, 0, (-1, 0, 1))], 2, "L2") == pytest.approx([1, 2])


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-100, 100, width=32)),
    st.integers(0, 3),
)
def test_geometric_median_is_the_sum_of_distances(weight, axis):
    axis %= weight.ndim
    filters = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    expected = [sum(np.linalg.norm(one - other) for other in filters) for one in filters]
    found = unit_importance(xp, [(weight, axis, range(len(filters)))], len(filters), "geometric_median")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * max(np.abs(weight).max(), 1e-3))


def test_equal_filters_have_no_distance():
    assert unit_importance(xp, [(np.full((3, 50), 0.1, np.float32), 0, range(3))], 3, "geometric_median").max() < 1e-3


def test_norm_of_zeros_divides():
    assert norm(xp, [FILTERS]) == pytest.approx(30**0.5) and norm(xp, [FILTERS * 0]) == 1
    assert norm(xp, [FILTERS, 2 * FILTERS]) == pytest.approx(150**0.5)
