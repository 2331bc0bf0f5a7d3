"""soft_threshold, l0_sparsity, variational_dropout: numbers worked by hand and from the papers; iterative_magnitude's rounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext import ConfigError, NNCFConfig, noise
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.l0_sparsity import HardConcreteGate
from nncf_ext.algorithms.soft_threshold import SoftThreshold
from nncf_ext.algorithms.variational_dropout import WeightNoise, divergence


def algorithm(name, **params):
    return NNCFConfig.from_dict({"compression": {"algorithm": name, "params": params}}).algorithms()[0]


def test_soft_threshold_by_hand():
    """The threshold is sigmoid(-1) = 0.268941."""
    x = np.array([0.6, -0.4, 0.1], np.float32)
    y = SoftThreshold(initial=-1).apply(xp, x, {"threshold": np.float32(-1)}, True)
    np.testing.assert_allclose(y, [0.331059, -0.131059, 0], atol=1e-6)
    assert y[2] == 0


@pytest.mark.parametrize(("score", "gate"), [(-2.398, 0), (-2.397, 2e-4), (0, 0.5), (2.397, 0.9999), (2.398, 1)])
def test_gates_in_inference(score, gate):
    """Exactly 0 up to -2.397895, exactly 1 from 2.397895 on."""
    z = HardConcreteGate(initial=0).apply(xp, np.ones(1, np.float32), {"scores": np.full(1, score, np.float32)}, False)
    np.testing.assert_allclose(z, gate, atol=3e-4)
    assert (z == gate).all() or gate not in (0, 1)


def test_gates_in_training_are_zero_as_often_as_the_loss_says():
    """log alpha 0: P(z = 0) = 1 - sigmoid(1.598597) = 0.1682, and as often 1."""
    size = 1 << 18
    (rows,) = noise.draw(5, [size])
    gate = HardConcreteGate(initial=0)
    z = gate.apply(xp, np.ones(size, np.float32), {"scores": np.zeros(size, np.float32), "rows": rows}, True)
    assert (z == 0).mean() == pytest.approx(0.1682, abs=0.003)
    assert (z == 1).mean() == pytest.approx(0.1682, abs=0.003)
    assert z.mean() == pytest.approx(0.5, abs=0.003)


@pytest.mark.parametrize(("log_alpha", "value"), [(-8, 4.6359), (-3, 2.1156), (0, 0.431239), (3, 0.025420), (8, 0.000168)])
def test_divergence(log_alpha, value):
    assert float(divergence(xp, np.array([log_alpha], np.float64))) == pytest.approx(value, rel=1e-4, abs=5e-7)


@given(st.floats(-8, 7.9), st.floats(0.01, 2))
def test_divergence_falls(at, step):
    lower, higher = (float(divergence(xp, np.array([a], np.float64))) for a in (min(at + step, 8), at))
    assert lower <= higher + 1e-12


def test_mostly_noise_is_zero():
    """log alpha = log variance - log w^2 is 3 at w = exp((log variance - 3) / 2)."""
    edge = math.exp((-2 - 3) / 2)
    x = np.array([0.99 * edge, 1.01 * edge, -0.5], np.float32)
    transform = WeightNoise(initial=-10, threshold=3)
    y = transform.apply(xp, x, {"log_variance": np.full(3, -2, np.float32)}, False)
    assert y.tolist() == [0, x[1], x[2]]


def test_normal_noise():
    values = noise.normal(xp, noise.draw(1, [1 << 18])[0], (1 << 18,))
    assert values.mean() == pytest.approx(0, abs=0.01) and values.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(values) < 1) == pytest.approx(0.6827, abs=0.005)


def test_factors_rise():
    ramped = algorithm("l0_sparsity", weight=2.0, warmup_epochs=2, ramp_epochs=3)
    assert [ramped.factor(epoch) for epoch in range(7)] == pytest.approx([0, 0, 0.5, 1, 1.5, 2, 2])
    assert algorithm("soft_threshold", weight=3).factor(0) == 3


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("soft_threshold", {"initial_threshold": 1}, "initial_threshold"),
        ("l0_sparsity", {"initial_keep_probability": 1.0}, "initial_keep_probability"),
        ("variational_dropout", {"weight": -1}, "weight"),
        ("variational_dropout", {"treshold": 1}, "did you mean 'threshold'"),
        ("iterative_magnitude", {}, "found neither of sparsity_target and quality, expected one of them"),
        ("iterative_magnitude", {"sparsity_target": 0.5, "quality": 1}, "found both of sparsity_target and quality"),
        ("iterative_magnitude", {"quality": 0}, "quality"),
    ],
)
def test_mistakes(name, params, message):
    with pytest.raises(ConfigError, match=message):
        algorithm(name, **params)


def test_two_sparsity_algorithms_are_refused():
    with pytest.raises(ConfigError, match="soft_threshold"):
        NNCFConfig.from_dict({"compression": [{"algorithm": "soft_threshold"}, {"algorithm": "rb_sparsity"}]})


def test_learned_zeros_cannot_be_frozen():
    with pytest.raises(ValueError, match="l0_sparsity: its zeros cannot be frozen; strip the model"):
        algorithm("l0_sparsity").freeze(None, {}, True)
