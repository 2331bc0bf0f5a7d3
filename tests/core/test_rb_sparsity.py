"""RB sparsity's arithmetic, by hand."""

import math

import numpy as np
import pytest

from nncf_ext import noise, numerics
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.rb_sparsity import FIRST_SCORE, RandomMask, RBSparsity
from nncf_ext.edits import Edit
from nncf_ext.graph import Site
from nncf_ext.schedules import adaptive


def test_first_values():
    _, variables = RandomMask().calibrate((3, 200), None)
    assert xp.sigmoid(FIRST_SCORE) == pytest.approx(0.99)
    assert variables["scores"].trainable and not variables["rows"].trainable and not variables["level"].trainable
    assert variables["rows"].value.shape == (math.ceil(600 / noise.WIDTH),)


def test_masks_with_and_without_noise():
    x, scores = np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, -0.5, 0.0], np.float32)
    variables = {"scores": scores, "rows": np.array([4], np.int32)}
    assert RandomMask().apply(xp, x, variables, training=False).tolist() == [1, 0, 0]
    expected = x * (scores + noise.table()[4, :3] > 0)
    assert (RandomMask().apply(xp, x, variables, training=True) == expected).all()
    assert float(numerics.kept_count(xp, scores)) == 1


class Attached:
    def __init__(self, scores, level):
        self.values = {e: {"scores": np.array(s, np.float32), "level": np.float32(level)} for e, s in scores.items()}

    def variables(self, edit):
        return self.values[edit]

    def assign(self, edit, name, value):
        self.values[edit][name] = value


class Training:
    """As much of a training as the loss sees."""

    xp = xp

    def __init__(self, scores, level=0.5):
        self.edits = tuple(Edit((Site(name, "weight"),), RandomMask(), "rb_sparsity") for name in scores)
        self.attached = Attached(dict(zip(self.edits, scores.values(), strict=True)), level)
        self.by_name = dict(zip(scores, self.edits, strict=True))

    def variables(self, edit):
        return self.attached.variables(edit)

    def variable(self, edit, name):
        return self.attached.variables(edit)[name]


SCORES = {"one": [[1.0, 2.0], [3.0, -4.0]], "two": [1.0, 5.0, 6.0, 7.0, -1.0, -2.0]}


def test_global_loss():
    """7 of 10 kept, 5 wanted: (0.2 / 0.05)^2 = 16."""
    algorithm = RBSparsity()
    assert algorithm.loss(Training(SCORES), algorithm.start()) == pytest.approx(16)
    assert algorithm.loss(Training(SCORES, 0.3), algorithm.start()) == pytest.approx(0, abs=1e-9)


def test_local_loss():
    """3/4 and 4/6 kept, 1/2 wanted of each: ((0.25 + 1/6) / 0.05)^2."""
    algorithm = RBSparsity(params={"sparsity_level_setting_mode": "local"})
    assert algorithm.loss(Training(SCORES), algorithm.start()) == pytest.approx(((0.25 + 1 / 6) / 0.05) ** 2, rel=1e-5)


def test_a_layer_with_a_level_of_its_own_counts_in_the_global_loss():
    """Wanted: half of 4 and all of 6, 8 in all; 7 are kept: (0.1 / 0.05)^2."""
    training = Training(SCORES)
    training.attached.assign(training.by_name["two"], "level", np.float32(0))
    assert RBSparsity().loss(training, RBSparsity().start()) == pytest.approx(4)


def test_frozen_scores_are_out_of_reach_and_come_back():
    algorithm, training = RBSparsity(), Training(SCORES)
    state = algorithm.freeze(training, algorithm.start(), True)
    assert state["frozen"] and algorithm.loss(training, state) == 0
    assert training.variable(training.by_name["two"], "scores").tolist() == [65, 69, 70, 71, -65, -66]
    assert algorithm.freeze(training, state, True) is state
    training.attached.assign(
        training.by_name["one"], "scores", 0.5 * training.variable(training.by_name["one"], "scores")
    )  # weight decay
    state = algorithm.freeze(training, state, False)
    assert training.variable(training.by_name["two"], "scores").tolist() == SCORES["two"]
    assert (np.sign(training.variable(training.by_name["one"], "scores")) == np.sign(SCORES["one"])).all()
    assert not state["frozen"] and training.variable(training.by_name["one"], "level") == 0


@pytest.mark.parametrize(
    ("reached", "level", "bad", "patience", "expected"),
    [
        (0.0, 0.0, 0, 1, (0.05, 0)),
        (0.0, 0.05, 0, 1, (0.05, 0)),  # 0.05 away
        (0.021, 0.05, 0, 1, (0.1, 0)),  # within 0.03
        (0.3, 0.3, 0, 2, (0.3, 1)),
        (0.3, 0.3, 1, 2, (0.35, 0)),
        (0.58, 0.58, 0, 1, (0.6, 0)),  # never above the target
        (0.9, 0.6, 0, 1, (0.6, 0)),
    ],
)
def test_adaptive_schedule(reached, level, bad, patience, expected):
    found = adaptive(reached, level, 0.6, bad, patience)
    assert found == (pytest.approx(expected[0]), expected[1])
