"""CORAD's regularisers and proximal maps: hand-worked numbers and invariants; its schedules and mistakes in its config."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.corad import Shrinkage, level
from nncf_ext.sparsity import regularizers

W = np.array([[3.0, 0.0], [4.0, -1.0]])  # channels are columns: (3, 4) and (0, -1)
# numbers too small to be normal lose digits in any product, and their squares are zero
weights = arrays(np.float64, (3, 4), elements=st.floats(-5, 5, allow_subnormal=False))
thresholds = st.floats(0, 6)


def test_values_by_hand():
    assert regularizers.l1(xp, [W, W[:, :1]]) == pytest.approx((8 + 7) / 6)
    assert regularizers.group_lasso(xp, [W], [1]) == pytest.approx(2**0.5 * (5 + 1) / 4)
    assert regularizers.group_lasso(xp, [W.T], [0]) == pytest.approx(2**0.5 * (5 + 1) / 4)
    assert regularizers.entropy(xp, [W], 1.0) == pytest.approx((2 + 0 + np.log2(5) + 1) / 4)
    assert regularizers.bit_width(xp, [np.array([3.0, 7.0]), np.array([15.0])], [10, 30], 1.0) == pytest.approx(
        (10 * 2.5 + 30 * 4) / 40
    )
    assert regularizers.l0(xp, [np.zeros((2, 2)), np.zeros(3)]) == pytest.approx(0.831822, abs=1e-6)
    assert regularizers.l0(xp, [np.array([-3.0])]) == pytest.approx(0.197593, abs=1e-6)
    assert regularizers.l0(xp, [np.array([3.0])]) == pytest.approx(0.990034, abs=1e-6)
    rms = [(25 / 2) ** 0.5, 0.5**0.5]
    used = sum(r / (r + 0.5) for r in rms) / 2
    assert regularizers.latency(xp, [W, 0 * W], [1, 1], [3.0, 1.0], 0.5) == pytest.approx(0.75 * used)


def test_gates_are_exactly_shut_and_open():
    """Without noise from 2.397895 on either side; samples as often as the formula says, by all the quantiles of the noise."""
    gates = np.array([-2.398, -2.397, 0, 2.397, 2.398])
    z = regularizers.hard_concrete(xp, gates)
    assert z[0] == 0 and z[4] == 1 and (z[1:4] > 0).all() and (z[1:4] < 1).all() and z[2] == pytest.approx(0.5)
    u = (np.arange(100_000) + 0.5) / 100_000
    samples = regularizers.hard_concrete(xp, np.zeros(100_000), np.log(u / (1 - u)))
    assert (samples > 0).mean() == pytest.approx(0.8318, abs=1e-4) and (samples == 1).mean() == pytest.approx(0.1682, abs=1e-4)
    assert samples.mean() == pytest.approx(0.5)


def test_proximal_maps_by_hand():
    assert regularizers.soft_threshold(xp, np.array([3.0, -0.5, -2.0]), 1.0).tolist() == [2, 0, -1]
    got = regularizers.group_soft_threshold(xp, np.array([[3.0], [4.0]]), 1.0, 1)
    np.testing.assert_allclose(got, [[2.4], [3.2]])
    assert not regularizers.group_soft_threshold(xp, np.array([[0.6], [0.8]]), 1.0, 1).any()
    assert not regularizers.group_soft_threshold(xp, np.zeros((2, 1)), 1.0, 1).any()


@given(weights, thresholds)
def test_proximal_maps_solve_their_problem(w, t):
    """prox(w) minimises 1/2 ||z - w||^2 + t * |z|: nothing near it is better; a map shortens and keeps signs."""
    rng = np.random.default_rng(0)
    for shrunk, penalty in (
        (regularizers.soft_threshold(xp, w, t), lambda z: np.abs(z).sum()),
        (regularizers.group_soft_threshold(xp, w, t, 0), lambda z: np.linalg.norm(z, axis=1).sum()),
    ):

        def objective(z, penalty=penalty):
            return 0.5 * ((z - w) ** 2).sum() + t * penalty(z)

        best = objective(shrunk)
        for size in (1e-3, 0.1, 1.0):
            assert best <= objective(shrunk + size * rng.normal(size=w.shape)) + 1e-9
        assert (np.abs(shrunk) <= np.abs(w)).all() and (shrunk * w >= 0).all()


@given(weights, thresholds, st.booleans())
def test_a_model_computes_with_its_weights_as_they_are(w, t, grouped):
    """And a proximal step with threshold 0 leaves them bit for bit: the term is not there yet."""
    transform = Shrinkage(channel_axis=1, grouped=grouped)
    assert transform.apply(xp, w, {"threshold": t}, True) is w
    assert transform.apply(xp, w, {"threshold": t}, False) is w
    np.testing.assert_array_equal(transform.shrunk(xp, w, 0.0), w)


@given(weights, st.integers(1, 3), st.floats(0.01, 2))
def test_means_do_not_depend_on_the_size_of_the_model(w, copies, delta):
    for value in (
        lambda layers: regularizers.l1(xp, layers),
        lambda layers: regularizers.group_lasso(xp, layers, [0] * len(layers)),
        lambda layers: regularizers.entropy(xp, layers, delta),
        lambda layers: regularizers.latency(xp, layers, [0] * len(layers), [2.0] * len(layers), delta),
    ):
        assert value([w] * copies) == pytest.approx(value([w]))
        assert 0 <= value([w / 2]) <= value([w]) + 1e-12


@pytest.mark.parametrize(
    ("schedule", "levels"),
    [
        ({}, [0, 8, 8, 8, 8]),
        ({"schedule": "linear", "ramp_epochs": 2}, [0, 0, 4, 8, 8]),
        ({"schedule": "cubic", "ramp_epochs": 2}, [0, 0, 7, 8, 8]),
        ({"schedule": "linear"}, [0, 8, 8, 8, 8]),
        ({"schedule": "multistep", "multistep_steps": [2, 3], "multistep_factors": [0.5, 1, 0]}, [0, 4, 8, 0, 0]),
    ],
)
def test_schedules_of_a_term(schedule, levels):
    (corad,) = made(type="l1", weight=8, warmup_epochs=1, **schedule)
    assert [level(corad.regularization, epoch) for epoch in range(5)] == levels
    assert level(corad.distillation, 3) == 0


def made(**regularization):
    return NNCFConfig.from_dict({"compression": {"algorithm": "corad", "regularization": regularization}}).algorithms()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"type": "l2", "weight": 1}, 'compression.regularization.type: found "l2", expected one of l1, group_lasso'),
        ({"type": "l1"}, "compression.regularization: the key 'weight' is missing"),
        ({"type": "l1", "weight": -1}, "compression.regularization.weight: found -1"),
        (
            {"type": "entropy", "weight": 1, "proximal_step": 0.1},
            "proximal_step: found with type entropy, expected with type l1 or",
        ),
        ({"type": "l1", "weight": 1, "latency_table": "t.json"}, "latency_table: found with type l1, expected with type latency"),
        ({"type": "l1", "weight": 1, "schedule": "multistep", "multistep_steps": [1]}, "found 1 factors, expected 2"),
        ({"type": "l1", "weight": 1, "proximal": 1}, "unknown key, did you mean 'proximal_step'"),
    ],
)
def test_mistakes(keys, words):
    with pytest.raises(ConfigError, match=words):
        made(**keys)
