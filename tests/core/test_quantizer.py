"""The fake quantizer in numpy: levels, hand-worked values, invariants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncf_ext import numerics
from nncf_ext import numpy_xp as xp
from nncf_ext.edits import Range
from nncf_ext.quantization.quantizers import NNCFQuantizer

values = arrays(np.float32, st.integers(1, 30), elements=st.floats(-8, 8, width=32))
bits = st.integers(2, 8)


def quantizer(low, high, **settings):
    seen = Range(np.array([low], np.float32), np.array([high], np.float32))
    transform, variables = NNCFQuantizer(**settings).calibrate((5,), seen)
    return transform, {name: var.value for name, var in variables.items()}


@pytest.mark.parametrize(
    "settings, levels",
    [
        ({"bits": 8, "symmetric": True, "signed": True}, (-128, 127)),
        ({"bits": 8, "symmetric": True, "signed": True, "narrow": True}, (-127, 127)),
        ({"bits": 8, "symmetric": True, "signed": True, "half": True}, (-64, 63)),
        ({"bits": 8, "symmetric": True, "signed": False}, (0, 255)),
        ({"bits": 4, "symmetric": True, "signed": True}, (-8, 7)),
        ({"bits": 2, "symmetric": True, "signed": True}, (-2, 1)),
        ({"bits": 3, "symmetric": False}, (0, 7)),
    ],
)
def test_levels(settings, levels):
    assert NNCFQuantizer(**settings).levels == levels


def test_two_bits_by_hand():
    """scale 0.5, 2 bits signed: levels -2..1 of step 0.5."""
    transform, variables = quantizer(-0.5, 0.5, bits=2, symmetric=True)
    x = np.array([-3, -0.9, -0.2, 0.1, 0.7, 1.3, 5], np.float32)
    assert transform.apply(xp, x, variables, True) == pytest.approx([-1, -1, 0, 0, 0.5, 0.5, 0.5])


def test_asymmetric_range_is_shifted_onto_zero():
    """3 intervals. -0.1..1: zero would be level 0.27, so low becomes 0. -0.4..1: level 0.86 becomes 1, and low -0.5 to keep 1."""
    for low, grid_low, step in ((-0.1, 0.0, 1 / 3), (-0.4, -0.5, 0.5)):
        transform, variables = quantizer(low, 1.0, bits=2, symmetric=False)
        grid = transform.encoded(xp, variables)
        assert (grid.low[0], grid.step[0]) == pytest.approx((grid_low, step))
        assert numerics.zero_point(xp, grid.low, grid.step) * grid.step == pytest.approx(-grid.low)
        assert transform.apply(xp, np.zeros(1, np.float32), variables, True) == 0


def test_sign_comes_from_the_data_unless_it_is_fixed():
    assert quantizer(0, 1, bits=8, symmetric=True)[0].signed is False
    assert quantizer(-1, 1, bits=8, symmetric=True)[0].signed is True
    assert quantizer(0, 1, bits=8, symmetric=True, signed=True)[0].signed is True


@given(values, bits, st.booleans(), st.booleans(), st.floats(0.01, 5), st.floats(0, 5))
def test_invariants(x, bits, symmetric, signed, high, below):
    transform, variables = quantizer(-below if signed else 0.0, high, bits=bits, symmetric=symmetric)
    y = transform.apply(xp, x, variables, False)
    grid = transform.encoded(xp, variables)
    step, tolerance = float(grid.step[0]), 1e-5 * (1 + abs(x))
    assert len(np.unique(np.round(y / step))) <= 2**bits
    assert transform.apply(xp, y, variables, False) == pytest.approx(y, abs=1e-6)  # idempotent
    assert transform.apply(xp, np.zeros_like(x), variables, False) == pytest.approx(0, abs=0)  # zero is a level
    order = np.argsort(x, kind="stable")
    assert (np.diff(y[order]) >= -1e-6).all()  # monotone
    inside = (x >= grid.low[0]) & (x <= grid.low[0] + grid.intervals * step)
    assert (abs(y - x)[inside] <= step / 2 + tolerance[inside]).all()


@given(values, bits)
def test_codes_and_values_agree(x, bits):
    transform, variables = quantizer(-1, 3, bits=bits, symmetric=False)
    grid = transform.encoded(xp, variables)
    codes = numerics.quantize_codes(xp, x, grid.low, grid.step, grid.intervals)
    assert codes.min() >= 0 and codes.max() <= grid.intervals
    assert (codes - numerics.zero_point(xp, grid.low, grid.step)) * grid.step == pytest.approx(
        transform.apply(xp, x, variables, False), abs=1e-6
    )


def test_per_channel_equals_a_loop_over_channels():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    whole, variables = NNCFQuantizer(bits=8, symmetric=True, channel_axis=0).calibrate((3, 4), Range(low, high))
    y = whole.apply(xp, x, {n: v.value for n, v in variables.items()}, False)
    for i in range(3):
        one, own = NNCFQuantizer(bits=8, symmetric=True, signed=True).calibrate((4,), Range(low[i], high[i]))
        assert y[i].tolist() == one.apply(xp, x[i], {n: v.value for n, v in own.items()}, False).tolist()


def test_a_dead_channel_gets_a_usable_range():
    x = np.array([[0.0, 0.0], [2.0, -1.0]], np.float32)
    seen = Range(x.min(1, keepdims=True), x.max(1, keepdims=True))
    _, variables = NNCFQuantizer(bits=8, symmetric=True, channel_axis=0).calibrate((2, 2), seen)
    assert variables["scale"].value.ravel() == pytest.approx([0.02, 2.0])
