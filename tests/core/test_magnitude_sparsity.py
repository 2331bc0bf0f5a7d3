"""Magnitude masks: exact counts, ties, hand-worked thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.magnitude_sparsity import MagnitudeSparsity, masks_at_level

weights = st.lists(arrays(np.float32, st.integers(1, 20), elements=st.integers(-3, 3).map(float)), min_size=1, max_size=4)


@given(weights, st.floats(0, 0.99))
def test_global_level_is_met_exactly_even_with_ties(tensors, level):
    masks = masks_at_level(xp, tensors, level, "abs", over_all=True)
    total = sum(t.size for t in tensors)
    assert sum(int((m == 0).sum()) for m in masks) == round(level * total)
    kept = [abs(w) for t, m in zip(tensors, masks, strict=True) for w in t[m == 1]]
    gone = [abs(w) for t, m in zip(tensors, masks, strict=True) for w in t[m == 0]]
    assert not kept or not gone or min(kept) >= max(gone)


@given(weights, st.floats(0, 0.99))
def test_local_level_is_met_in_every_layer(tensors, level):
    for tensor, mask in zip(tensors, masks_at_level(xp, tensors, level, "abs", over_all=False), strict=True):
        assert int((mask == 0).sum()) == round(level * tensor.size)


def test_normed_importance_divides_by_the_layers_norm():
    """[3, 4] has norm 5: 0.6, 0.8; [0.1, 0] has norm 0.1: 1, 0. The two smallest of all are 0 and 0.6."""
    tensors = [np.array([3.0, 4.0], np.float32), np.array([0.1, 0.0], np.float32)]
    by_norm = masks_at_level(xp, tensors, 0.5, "normed_abs", over_all=True)
    assert [m.tolist() for m in by_norm] == [[0, 1], [1, 0]]
    assert [m.tolist() for m in masks_at_level(xp, tensors, 0.5, "abs", over_all=True)] == [[1, 1], [0, 0]]


def test_level_zero_keeps_everything_and_a_zero_layer_is_no_problem():
    tensors = [np.zeros(4, np.float32)]
    assert masks_at_level(xp, tensors, 0.0, "normed_abs", True)[0].tolist() == [1, 1, 1, 1]
    assert masks_at_level(xp, tensors, 0.5, "normed_abs", True)[0].tolist() == [0, 0, 1, 1]


def test_multistep_target_is_its_last_level():
    config = {"schedule": "multistep", "multistep_steps": [1], "multistep_sparsity_levels": [0.2, 0.7]}
    algorithm = MagnitudeSparsity(params=config)
    assert algorithm.target == 0.7 and algorithm.level(0) == 0.2 and algorithm.level(1) == pytest.approx(0.7)
