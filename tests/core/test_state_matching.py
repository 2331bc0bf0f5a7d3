"""`load_state` of every framework: what has a place, what differs, what is missing."""

import numpy as np
import pytest

from nncf_ext.state_matching import Given, load_matching

OWN = {"weight": np.zeros((2, 3)), "mask": np.zeros((2, 3)), "level": np.zeros(())}
WEIGHT, MASK = Given("w", "weight", np.ones((2, 3))), Given("m", "mask", np.ones(6), any_shape=True, implied=("level",))


def test_all_that_fits_is_copied():
    found = {}
    assert load_matching([WEIGHT, MASK], OWN, found.update, is_resume=True, needless=()) == 2
    assert {name: value.shape for name, value in found.items()} == {"weight": (2, 3), "mask": (2, 3)}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([WEIGHT], r"mask is missing \(2 such"),
        ([WEIGHT, MASK, Given("x", "other", np.ones(1))], r"x has no place in the model \(1 such"),
        ([WEIGHT, Given("m", "mask", np.ones(6)), "level is odd"], r"m has shape \(6,\), the model's \(2, 3\) \(4 such"),
    ],
)
def test_a_difference_is_a_warning_or_nothing_is_copied(given, problem):
    found = {}
    with pytest.raises(RuntimeError, match=f"load_state: {problem}"):
        load_matching(given, OWN, found.update, is_resume=True, needless=())
    assert not found
    with pytest.warns(UserWarning, match=f"tensors loaded; {problem}"):
        load_matching(given, OWN, found.update, is_resume=False, needless=())
    assert "weight" in found


def test_what_needs_no_value():
    assert load_matching([WEIGHT], OWN, lambda found: None, is_resume=True, needless=("mask", "level")) == 1
