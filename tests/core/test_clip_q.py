"""clip_q: numbers worked by hand, properties, mistakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.clip_q import ClipQ
from nncf_ext.sparsity.selection import smallest_left
from tests.contract.references.clip_q import clipped

ON = {"begun": np.ones((), np.float32)}
TOY = np.array([-0.9, -0.5, -0.3, -0.1, -0.05, 0.02, 0.1, 0.25, 0.4, 0.8], np.float32)


def apply(w, pruning, bits):
    return ClipQ(pruning=pruning, bits=bits).apply(xp, np.asarray(w, np.float32), ON, True)


def test_the_threshold_weight_stays():
    """c+ is .25 and c- -.3. Spans are .55 and .6: of 7 intervals 7 * .55/1.15 = 3.35, so 3, are for positive weights, .1833 wide,
    4 are for negative ones, .15 wide; of 3 there are 1 and 2."""
    low, number = smallest_left(xp, xp.float_bits(TOY), 0.4)
    assert low == pytest.approx([0.3, 0.25]) and number.tolist() == [5, 5]
    assert apply(TOY, 0.4, 3) == pytest.approx([-0.9, -0.5, -0.3, 0, 0, 0, 0, 0.325, 0.325, 0.8])
    mean = (0.25 + 0.4 + 0.8) / 3
    assert apply(TOY, 0.4, 2) == pytest.approx([-0.9, -0.4, -0.4, 0, 0, 0, 0, mean, mean, mean])


def test_the_papers_figure():
    """16 weights, pruning .25, 2 bits: 4 zeros and 3 other values."""
    w = np.random.default_rng(0).permutation(np.r_[-8:0, 1:9] + 0.25)
    y = apply(w, 0.25, 2)
    assert np.count_nonzero(y == 0) == 4 and len(np.unique(y[y != 0])) == 3


@pytest.mark.parametrize(
    ("w", "pruning", "bits", "expected"),
    [
        ([3, 1, 2, 4], 0.5, 2, [3, 0, 0, 4]),
        ([-3, -1, -2, -4], 0.5, 2, [-3, 0, 0, -4]),
        ([0, 3, -0.0, 1, 0, 2, 0, 4], 0.5, 2, [0, 3, 0, 0, 0, 0, 0, 4]),  # zeros are not counted
        ([0, -0.0, 0], 0.9, 2, [0, 0, 0]),
        ([0.5, 0.5, 0.5], 0.5, 2, [0.5, 0.5, 0.5]),  # all are as large as the threshold
        ([-0.5, 2, -0.5], 0.4, 8, [-0.5, 2, -0.5]),
        ([7], 0.95, 2, [7]),
        ([1, 1.25, 9, -1e-3], 0.0, 2, [1.125, 1.125, 9, -1e-3]),  # the other sign has one interval at least
    ],
    ids=["positive", "negative", "masked", "zero", "one value", "one of each sign", "one weight", "one small"],
)
def test_layers_of_a_special_kind(w, pruning, bits, expected):
    assert apply(w, pruning, bits) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 300),
    pruning=st.floats(0, 0.99),
    bits=st.integers(2, 8),
    zeros=st.sampled_from([0.0, 0.5]),
    low=st.sampled_from([-1.0, 0.3]),
)
def test_properties(seed, size, pruning, bits, zeros, low):
    rng = np.random.default_rng(seed)
    w = (rng.uniform(low, 1, size) * np.exp(rng.normal(size=size)) * (rng.uniform(size=size) >= zeros)).astype(np.float32)
    y = apply(w, pruning, bits)
    assert len(np.unique(np.r_[y, 0])) <= 2**bits
    assert not y[w == 0].any() and (y * w >= 0).all()
    np.testing.assert_allclose(y, clipped(w, pruning, bits), rtol=1e-6)
    for sign in (-1, 1):
        own = sign * w > 0
        n = np.count_nonzero(own)
        assert n == 0 or abs(np.mean(y[own] == 0) - pruning) <= 1 / n + 1e-6
        alive = own & (y != 0)
        assert y[alive].sum(dtype=np.float64) == pytest.approx(w[alive].sum(dtype=np.float64), rel=1e-5)
        assert not alive.any() or np.abs(w[alive]).min() >= np.abs(w[own & ~alive]).max(initial=0)
    dense = apply(w, 0, 8)
    span = sum(np.ptp(part) for part in (w[w > 0], w[w < 0]) if part.size)
    assert np.abs(dense - w).max() <= 1.5 * span / 255 + 1e-6  # a sign with 1.49 of the 255 intervals has one


def test_before_its_time_the_weight_passes():
    assert (ClipQ(pruning=0.5, bits=2).apply(xp, TOY, {"begun": np.zeros((), np.float32)}, True) == TOY).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"params": {"pruning": 1}}, "compression.params.pruning: found 1, expected less than 1"),
        ({"params": {"bits": 1}}, "compression.params.bits"),
        ({"params": {"prunning": 0.5}}, "did you mean 'pruning'"),
        ({"params": {"by_scope": {"a": {"bits": 4}}}}, "'pruning' is missing"),
        ({"initializer": {"search": {"trials": 0}}}, "compression.initializer.search.trials"),
        ({"initializer": {"search": {"trade_off": -1}}}, "compression.initializer.search.trade_off"),
    ],
)
def test_mistakes(entry, message):
    with pytest.raises(ConfigError, match=message):
        NNCFConfig.from_dict({"compression": {"algorithm": "clip_q", **entry}})
