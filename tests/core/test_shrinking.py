"""What adapters shrink models with: which indices stay, and what is taken back."""

import numpy as np
import pytest

from nncf_ext.channels.shrinking import Changes, keep_along
from nncf_ext.closeness import are_close, largest_difference
from nncf_ext.edits import Removal
from nncf_ext.graph import Site

SITE = Site("conv", "weight")


def kept(*removals):
    found = {}
    for axis, keep in removals:
        keep_along(found, Removal(SITE, axis, keep), (4, 3))
    return found


def test_indices_by_axis():
    assert kept((0, (1, 3)), (-1, (0,)), (0, (1, 3))) == {0: (1, 3), 1: (0,)}
    assert kept((0, (0, 1, 2, 3))) == {}


@pytest.mark.parametrize(
    ("removals", "message"),
    [
        ([(2, (0,))], "found axis 2, expected one of 2 axes"),
        ([(0, ())], r"found \[\] to keep, expected sorted indices below 4, at least one"),
        ([(0, (2, 1))], r"found \[2, 1\] to keep"),
        ([(1, (3,))], r"found \[3\] to keep, expected sorted indices below 3"),
        ([(1, (-1, 0))], r"found \[-1, 0\] to keep"),
        ([(0, (0, 1)), (0, (0, 2))], "found other channels to keep along axis 0 than another removal does"),
    ],
)
def test_removals_that_make_no_sense(removals, message):
    with pytest.raises(ValueError, match=message):
        kept(*removals)


class Layer:
    pass


def test_changes_are_taken_back_the_last_one_first():
    layer, changes = Layer(), Changes()
    layer.units = 8
    changes.set_all(layer, {"units": 4, "more": 1})
    changes.set(layer, "units", 2)
    assert vars(layer) == {"units": 2, "more": 1} and changes.attributes[-1] == (layer, "units")
    changes.undo(down_to=2)
    assert vars(layer) == {"units": 4, "more": 1} and len(changes) == len(changes.attributes) == 2
    with pytest.raises(KeyError), changes.undone_on_error():
        changes.made(lambda: setattr(layer, "other", True))
        raise KeyError
    assert vars(layer) == {"units": 8, "other": True} and not len(changes)


def test_differences_are_parts_of_the_largest_value():
    a = np.float32([1, -4, 0])
    assert largest_difference(a, a + np.float32([0, 0, 2])) == 0.5
    assert largest_difference(np.zeros(2), np.float64([0, 1e-9])) == pytest.approx(1e-3)
    assert largest_difference(np.zeros((2, 0)), np.zeros((2, 0))) == 0
    assert largest_difference(a, a[:2]) == np.inf


def test_what_is_no_number_has_to_stay_so():
    odd = np.array([np.nan, np.inf, -np.inf, 2.0])
    assert largest_difference(odd, odd) == 0
    for index, value in ((0, 1.0), (1, -np.inf), (2, 0.0), (3, np.nan), (3, np.inf)):
        other = odd.copy()
        other[index] = value
        assert largest_difference(odd, other) == np.inf


def test_models_are_close_where_all_outputs_are():
    a = [np.ones(2), np.full(2, 100.0)]
    assert are_close(a, [np.ones(2), np.full(2, 100.001)], 1e-4)
    assert not are_close(a, [np.full(2, 1.001), np.full(2, 100.0)], 1e-4)
    assert not are_close(a, a[:1], 1e-4)
