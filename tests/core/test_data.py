"""Data as people have them: what becomes the batches, and what is refused."""

import copy

import numpy as np
import pytest

from nncf_ext import ConfigError
from nncf_ext.data import Batches, Data, DataWarning, Input, ModelInputs, described, refuse_one_shot


class Arrays:
    """The framework of numpy."""

    def items(self, data):
        return None

    def taken_apart(self, data, batch):
        return None

    def inputs(self, structure):
        return structure

    def target(self, structure):
        return structure

    def stacked(self, values):
        return np.stack(values)

    def micro_batches(self, inputs, target):
        yield inputs, target


ONE = ModelInputs((Input("x", ((None, 3),)),))
UNKNOWN = ModelInputs((Input("x"),))
TWO = ModelInputs((Input("a", ((None, 3),)), Input("b", ((None, 2),))))
TEXT = ModelInputs((), (Input("input_ids"), Input("attention_mask"), Input("labels")))
X, Y, W = np.arange(30.0).reshape(10, 3), np.arange(10), np.ones(10)
A, B = X, np.arange(20.0).reshape(10, 2)


class Samples:
    """A map-style dataset: a length and items, which are read by their number."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        return tuple(column[index] for column in self.columns)


class Table(Samples):
    def __getitem__(self, index):
        return {"x": self.columns[0][index].tolist(), "label": int(self.columns[1][index]), "text": "a word"}


def read(data, expected=ONE, size=4):
    return list(Batches(Data(data, Arrays(), "data", size), labelled=True, expected=expected)())


def generated():
    yield from ((X[:5], Y[:5]), (X[5:], Y[5:]))


SPREAD = [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]  # samples of arrays come from all over them
CASES = {
    "an array": (X, SPREAD, False),
    "x and y": ((X, Y), SPREAD, True),
    "x, y and weights": ((X, Y, W), SPREAD, True),
    "y as a list of numbers": ((X, Y.tolist()), SPREAD, True),
    "a dict of arrays": ({"x": X, "label": Y}, SPREAD, True),
    "a dict of another name": ({"image": X, "label": Y}, SPREAD, True),
    "a dataset": (Samples(X, Y), SPREAD, True),
    "a dataset without labels": (Samples(X), SPREAD, False),
    "a list of batches": ([(X[:5], Y[:5]), (X[5:], Y[5:])], [range(5), range(5, 10)], True),
    "a list of bare batches": ([X[:5], X[5:]], [range(5), range(5, 10)], False),
    "a tuple of batches": (((X[:5], Y[:5]), (X[5:], Y[5:])), [range(5), range(5, 10)], True),
    "a list of samples": (list(zip(X, Y, strict=True)), [range(4), range(4, 8), range(8, 10)], True),
    "a list of bare samples": (list(X), [range(4), range(4, 8), range(8, 10)], False),
    "a list of dicts": ([{"x": x.tolist(), "label": 1} for x in X[:2]], [range(2)], None),
    "a generator function": (generated, [range(5), range(5, 10)], True),
    "a generator": (generated(), [range(5), range(5, 10)], True),
    "a function that gives arrays": (lambda: (X, Y), SPREAD, True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_people_have(name):
    data, rows, labelled = CASES[name]
    found = read(data)
    assert len(found) == len(rows)
    for (inputs, target), own in zip(found, rows, strict=True):
        np.testing.assert_array_equal(inputs["x"] if isinstance(inputs, dict) else inputs, X[list(own)])
        if labelled is not None:
            assert (target is not None) == labelled
        if labelled:
            np.testing.assert_array_equal(target, Y[list(own)])


def test_columns_without_an_argument_are_named():
    data = Data(Table(X, Y), Arrays(), "data", 4)
    with pytest.warns(DataWarning, match="text is left out: the model, which takes x .batch, 3., has no such argument"):
        found = list(Batches(data, True, ONE)())
    np.testing.assert_array_equal(found[0][0]["x"], X[SPREAD[0]])
    assert list(Batches(data, True, ONE)()), "and told once"


@pytest.mark.parametrize("data", [([A, B], Y), (A, B, Y), [(A[:4], B[:4], Y[:4])], [([A[:4], B[:4]], Y[:4])]])
def test_several_inputs(data):
    (a, b), target = read(data, TWO)[0]
    rows = SPREAD[0] if isinstance(data, tuple) else range(4)
    np.testing.assert_array_equal(a, A[list(rows)])
    np.testing.assert_array_equal(b, B[list(rows)])
    np.testing.assert_array_equal(target, Y[list(rows)])


def test_a_list_of_inputs_is_none_of_batches():
    (found, _), *_ = read([A, B], TWO)
    np.testing.assert_array_equal(found[1], B[SPREAD[0]])


def test_samples_are_known_by_a_label_where_the_shapes_are_not():
    assert [len(x) for x, _ in read([(x, 1) for x in X], UNKNOWN)] == [4, 4, 2]
    assert [len(x) for x, _ in read([(X, Y)], UNKNOWN)] == [10]


def test_a_generator_can_be_read_again():
    batches = Batches(Data(generated(), Arrays(), "data"), expected=ONE)
    first = [next(batches()), next(batches())]
    assert [len(x) for x in batches()] == [len(x) for x in batches()] == [5, 5]
    np.testing.assert_array_equal(first[0], first[1])
    with pytest.raises(ConfigError, match="val_loader: found a generator, which can be read once, but validate_fn reads"):
        refuse_one_shot(generated(), "val_loader", "validate_fn")


def test_a_copy_of_a_config_has_the_same_data():
    batches = Batches(Data(generated(), Arrays(), "data"), expected=ONE)
    assert [len(x) for x in copy.deepcopy(batches)()] == [len(x) for x in batches()] == [5, 5]


def broken():
    yield X, Y
    raise OSError("image 7 is damaged")


REFUSED = {
    "nothing": (None, ONE, "data: found None, expected a loader or dataset, an array"),
    "a path": ("train/", ONE, "data: found a str, expected a loader"),
    "arrays of another shape": (
        (B, Y),
        ONE,
        r"data: the model does not run on the data: found float64 \(10, 2\), the model takes x \(batch, 3\)",
    ),
    "arrays of other lengths": (
        {"x": X, "label": Y[:5]},
        ONE,
        r"found {x: float64 \(10, 3\), label: int64 \(5,\)}, expected arrays of equally many samples",
    ),
    "splits": ({"train": Samples(X), "test": Samples(X)}, ONE, "found {train: a Samples, test: a Samples}, expected arrays"),
    "other names": ({"u": A, "v": B}, TWO, r"found {u: .*, v: .*}, but the model takes a \(batch, 3\), b \(batch, 2\)"),
    "inputs or target": (
        [(Y[None], Y[None], Y)],
        TEXT,
        r"cannot tell the inputs of a model that takes nothing that it must have, and may take input_ids, attention_mask, labels "
        r"from the target and its weights: give \(\(inputs...\), target\), or a dict",
    ),
    "an order that nobody has": ((A, B, Y), ModelInputs(TWO.required, by="name"), "or a dict by the names of the arguments"),
    "batch or sample": ([(X[:3], X[:3])], ModelInputs((Input("x", ((None, 3), (None, 3, 3))),)), "may be a batch or a sample"),
    "inputs and targets, or batches": (((A, B), (A, B)), TWO, "may be .inputs, targets. or batches: give batches as a list"),
    "what a tensor was split into": ((X[:5], X[5:]), ONE, "may be .inputs, targets. or batches: give batches as a list"),
    "samples of several shapes": (
        [([1.0, 2.0], 0), ([1.0], 0)],
        UNKNOWN,
        r"found samples that make no batch \(float64 \(2,\), float64 \(1,\)\), expected arrays of one shape",
    ),
    "broken data": (
        broken,
        ONE,
        "data: the data themselves failed at item 1, before .*: OSError: image 7 is damaged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_was_found_and_expected(name):
    data, expected, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        read(data, expected)


def test_what_data_are_called():
    assert described((X, [1, "a", None, 2])) == "(float64 (10, 3), [an int, a str, None, ... 4 in all])"
