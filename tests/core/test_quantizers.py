"""The quantizers that a config can choose, in numpy: hand-worked values, levels, invariants, and what cannot be had."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncf_ext import ConfigError, numerics
from nncf_ext import numpy_xp as xp
from nncf_ext.edits import Range
from nncf_ext.graph import Node, Parameter
from nncf_ext.quantization.quantizers.apot import APoT
from nncf_ext.quantization.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from nncf_ext.quantization.quantizers.float8 import LARGEST, Float8
from nncf_ext.quantization.quantizers.groups import GroupQuantizer
from nncf_ext.quantization.quantizers.lsq import LSQ, LSQPlus, gradient_scale
from nncf_ext.quantization.quantizers.pact import PACT
from nncf_ext.quantization.quantizers.stretched_elastic import StretchedElastic
from nncf_ext.quantization.quantizers.uniform import NNCFQuantizer
from tests.contract.references.quantizers import VJPS
from tests.core.test_placement import conv, network
from tests.core.test_quantizer_settings import plan, quantization

X = np.array([-3, -0.9, -0.2, 0.1, 0.7, 1.3, 5], np.float32)
values = arrays(np.float32, st.integers(2, 30), elements=st.floats(-8, 8, width=32))


def seen(x: np.ndarray) -> Range:
    return Range(x.min(keepdims=True), x.max(keepdims=True), x.reshape(1, -1))


def made(transform, x):
    transform, variables = transform.calibrate(x.shape, seen(x))
    return transform, {name: var.value for name, var in variables.items()}


def test_lsq_by_hand():
    """Step 0.5, 2 bits: v/s = -6, -1.8, -0.4, 0.2, 1.4, 2.6, 10 on the levels -2..1."""
    transform = LSQ(bits=2, signed=True, symmetric=True, elements=7)
    variables = {"step": np.array([0.5], np.float32)}
    assert transform.apply(xp, X, variables, True) == pytest.approx([-1, -1, 0, 0, 0.5, 0.5, 0.5])
    g = gradient_scale(7, 1)
    assert g == pytest.approx(0.377964, abs=1e-6)
    by_element = [VJPS["lsq"](transform, X, variables, np.eye(7, dtype=np.float32)[i])[1]["step"].item() / g for i in range(7)]
    assert by_element == pytest.approx([-2, -0.2, 0.4, -0.2, 1, 1, 1], abs=1e-6)
    assert made(transform, X)[1]["step"] == pytest.approx([3.2])  # 2 * mean|v| / sqrt(1)


def test_lsq_levels_and_start_of_unsigned_values():
    transform, variables = made(LSQ(bits=3, symmetric=True, elements=4), np.array([0, 1, 2, 3], np.float32))
    assert transform.levels == (0, 7) and transform.learned is True
    assert variables["step"] == pytest.approx([2 * 1.5 / math.sqrt(7)])


def test_lsq_plus_starts_weights_at_three_sigma():
    x = np.array([-1, 0, 1, 4], np.float32)
    _, variables = made(LSQ(bits=4, symmetric=True, signed=True, elements=4, start="three_sigma"), x)
    assert variables["step"] == pytest.approx([(x.mean() + 3 * x.std()) / 8])


def test_lsq_plus_starts_activations_where_the_squared_error_is_least():
    """One value in 200 is far out: the range does not go all the way."""
    x = np.concatenate([np.linspace(-0.5, 1, 199), [9]]).astype(np.float32)
    transform, variables = made(LSQPlus(bits=4, symmetric=False, elements=200), x)
    grid = transform.encoded(xp, variables)
    low, high = float(grid.low[0]), float((grid.low + grid.step * 15)[0])
    assert -0.8 < low < -0.3 and high < 8.5
    error = np.square(transform.apply(xp, x, variables, False) - x).sum()
    by_range, own = made(NNCFQuantizer(bits=4, symmetric=False), x)
    assert error < np.square(by_range.apply(xp, x, own, False) - x).sum()


def test_pact_by_hand():
    """a = 1: [-1, 0.3, 2] become [0, 0.3, 1] before rounding, and a's gradient is 1."""
    x, variables = np.array([-1, 0.3, 2], np.float32), {"clip": np.array([1], np.float32)}
    transform = PACT(bits=8, signed=False, symmetric=True)
    assert transform.apply(xp, x, variables, True) == pytest.approx([0, 0.3, 1], abs=0.5 / 255)
    by_x, own = VJPS["pact"](transform, x, variables, np.ones(3, np.float32))
    assert by_x.tolist() == [0, 1, 0] and own["clip"].item() == 1


def test_dorefa_by_hand():
    x = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], np.float32)
    found = DoReFaWeight(bits=2).apply(xp, x, {}, True)
    assert found == pytest.approx([-1, -1, -1 / 3, 1 / 3, 1 / 3, 1, 1])  # zero is no level: half goes to even
    transform = DoReFaActivation(bits=2, signed=False, symmetric=True)
    assert transform.apply(xp, X, {}, True) == pytest.approx([0, 0, 0, 0, 2 / 3, 1, 1])


@pytest.mark.parametrize("levels, units", [(3, [-2 / 3, 0, 2 / 3]), (4, [-0.75, -0.25, 0.25, 0.75])])
def test_stretched_elastic_by_hand(levels, units):
    x = np.linspace(-2, 2, 41, dtype=np.float32)
    transform, variables = made(StretchedElastic(levels=levels, elements=41), x)
    assert variables["scale"] == [2]
    found = transform.apply(xp, x, variables, True)
    assert sorted(set(found.round(5))) == pytest.approx([2 * unit for unit in units], abs=1e-4)
    inner = np.abs(np.abs(x) - 2 / 3) > 1e-3  # where three levels meet
    nearest = np.array(units)[np.abs(x[:, None] / 2 - np.array(units)).argmin(1)] * 2
    off = np.abs(found - nearest) > 1e-5
    assert not (off & inner & (np.abs(x) > 1e-3) & (np.abs(np.abs(x) - 1) > 1e-3)).any()


@pytest.mark.parametrize(
    "bits, magnitudes",
    [
        (2, (0, 1)),
        (3, (0, 1, 2, 4)),
        (4, (0, 1, 2, 3, 4, 6, 8, 10)),
        (5, (0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48)),
    ],
)
def test_apot_by_hand(bits, magnitudes):
    """Sums of {0, 1/2, 1/4, 1/16} and {0, 1/8}, say, in sixteenths, for 4 bits; the bounds are 3 standard deviations."""
    transform, variables = made(APoT(bits=bits), np.array([-1, 1], np.float32))
    assert transform.magnitudes == magnitudes
    assert variables["scale"] == [3]
    x = np.linspace(-4, 4, 81, dtype=np.float32)
    levels = 3 * np.array(magnitudes) / magnitudes[-1]
    levels = np.concatenate([-levels[:0:-1], levels])
    found = transform.apply(xp, x, variables, True)
    np.testing.assert_allclose(np.abs(found - x), np.abs(x[:, None] - levels).min(1), atol=1e-5)
    assert set(found.round(4)) <= set(levels.astype(np.float32).round(4))


@pytest.mark.parametrize("name", LARGEST)
def test_float8_is_the_nearest_of_all_256_codes(name):
    """Every number of the format, the middles between neighbours, and what is beyond the largest."""
    dtype = getattr(ml_dtypes, name)
    numbers = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    assert numbers.max() == LARGEST[name] and len(numbers) == {"float8_e4m3fn": 253, "float8_e5m2": 247}[name]
    transform = Float8(format=name, of_weight=False)
    one = {"scale": np.ones(1, np.float32)}
    assert (transform.apply(xp, numbers, one, False) == numbers).all()
    middles = (numbers[1:] + numbers[:-1]) / 2
    beyond = np.array([-1e6, 1e6, LARGEST[name] * 1.01], np.float32)
    assert transform.apply(xp, beyond, one, False).tolist() == [-LARGEST[name], LARGEST[name], LARGEST[name]]
    for x in (middles, middles * np.float32(1.0001), middles * np.float32(0.9999)):
        found = transform.apply(xp, x, one, False)
        distance = np.abs(x[:, None] - numbers).min(1)
        assert (np.abs(found - x) == distance).all()
    even = transform.apply(xp, middles, one, False).astype(dtype).view(np.uint8) % 2
    assert (even == 0).all()


def test_float8_scales_a_weight_by_its_own_largest_value():
    w = np.array([[1, -0.3], [7, 0.1]], np.float32)
    transform = Float8(format="float8_e4m3fn", of_weight=True, channel_axis=0)
    assert np.abs(transform.apply(xp, w, {}, False)).max(1) == pytest.approx([1, 7])
    assert (transform.apply(xp, np.zeros((2, 2), np.float32), {}, False) == 0).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_are_ranges_of_their_own(axis, symmetric):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(64, 64)).astype(np.float32) * np.linspace(0.1, 2, 64, dtype=np.float32)
    groups = GroupQuantizer(bits=4, symmetric=symmetric, group_size=32, axis=axis)
    low_high = [f(groups.grouped(w), axis=1, keepdims=True) for f in (np.min, np.max)]
    groups, found = groups.calibrate(w.shape, Range(*low_high))
    variables = {name: var.value for name, var in found.items()}
    y = groups.apply(xp, w, variables, False)
    grid = groups.encoded(xp, variables)
    assert (numerics.fake_quantize(xp, w, grid.low, grid.step, grid.intervals) == y).all()
    for part in (slice(0, 32), slice(32, 64)):
        piece = w[part] if axis == 0 else w[:, part]
        low, high = piece.min(axis, keepdims=True), piece.max(axis, keepdims=True)
        one, own = NNCFQuantizer(bits=4, symmetric=symmetric, signed=symmetric, channel_axis=1 - axis).calibrate(
            piece.shape, Range(np.minimum(low, 0), np.maximum(high, 0))
        )
        found_piece = one.apply(xp, piece, {name: var.value for name, var in own.items()}, False)
        np.testing.assert_allclose(y[part] if axis == 0 else y[:, part], found_piece, atol=1e-6)


ALL = {
    "lsq": LSQ(bits=3, symmetric=True, elements=8),
    "lsq_plus": LSQPlus(bits=3, symmetric=False, elements=8),
    "pact": PACT(bits=3, symmetric=True),
    "dorefa": DoReFaActivation(bits=3, symmetric=True, learned=False),
    "dorefa_weight": DoReFaWeight(bits=3),
    "ternary": StretchedElastic(levels=3, elements=8),
    "stretched": StretchedElastic(levels=4, elements=8),
    "apot": APoT(bits=4),
}


@pytest.mark.parametrize("name", ALL)
@given(x=values)
@settings(deadline=None, max_examples=40)
def test_few_levels_in_order(name, x):
    """At most 2^bits levels, on the grid that exports write; larger values have no lower level; zero stays where it is one."""
    transform, variables = made(ALL[name], x)
    x = np.sort(x)
    y = transform.apply(xp, x, variables, False)
    assert len(set(y.round(6).tolist())) <= 2**transform.bits
    assert (np.diff(y) >= -1e-6).all()
    grid = transform.encoded(xp, variables)
    codes = np.asarray(y / grid.step)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    if name not in ("dorefa_weight", "stretched"):
        assert (transform.apply(xp, np.zeros_like(x), variables, False) == 0).all()
    if name != "dorefa_weight":
        np.testing.assert_allclose(transform.apply(xp, y, variables, False), y, atol=1e-6 * max(1, np.abs(y).max()))


@given(x=values)
@settings(deadline=None, max_examples=40)
def test_float8_twice_is_float8_once(x):
    for of_weight in (True, False):
        transform, variables = made(Float8(format="float8_e4m3fn", of_weight=of_weight), x)
        y = transform.apply(xp, x, variables, False)
        np.testing.assert_allclose(transform.apply(xp, y, variables, False), y, rtol=1e-6)


# What cannot be had


def lenet():
    matrix = Parameter("weight", "fc.weight", (10, 96), 0, 1, True, 1)
    return network(
        Node("x", "Input"),
        conv("stem"),
        Node("relu", "Relu"),
        Node("fc", "Gemm", parameters=(matrix,)),
        Node("y", "Output"),
        wires="x>stem stem>relu relu>fc fc>y",
    )


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"weights": {"quantizer": "fp8_e4m3", "bits": 4}}, 'weights.bits: found 4 for .* "fp8_e4m3", expected 8'),
        ({"weights": {"quantizer": "lsq", "mode": "asymmetric"}}, 'weights.mode: found "asymmetric" .* expected "symmetric"'),
        ({"activations": {"quantizer": "lsq_plus", "mode": "symmetric"}}, 'activations.mode: .* expected "asymmetric"'),
        ({"activations": {"quantizer": "pact", "per_channel": True}}, "activations.per_channel: found true .* expected false"),
        ({"weights": {"quantizer": "dorefa", "logarithm_scale": True}}, "weights.logarithm_scale: found true .* expected false"),
        ({"weights": {"quantizer": "stretched_elastic"}}, 'weights.quantizer: .* expected "levels": 3 or "bits": 2'),
        ({"weights": {"quantizer": "apot"}}, 'weights.quantizer: .* expected "bits": 2, 3, 4 or 5'),
        ({"weights": {"quantizer": "apot", "bits": 6}}, "weights.bits: found 6 .* expected 2 or 3 or 4 or 5"),
        ({"weights": {"quantizer": "stretched_elastic", "bits": 4}}, "weights.bits: found 4 .* expected 2"),
        ({"weights": {"quantizer": "stretched_elastic", "bits": 2, "levels": 3}}, 'expected "levels": 3 or "bits": 2'),
        ({"weights": {"levels": 3}}, 'weights.levels: found 3 for .* "nncf", which has no such key'),
        ({"weights": {"group_size": 32}}, "weights.group_size: found 32 for stem.weight of shape .* linear layers only"),
        (
            {"scope_overrides": {"weights": {"fc": {"group_size": 64}}}},
            r'scope_overrides.weights\["fc"\].group_size: found 64 for the 96 inputs of fc.weight, expected a divisor',
        ),
        (
            {"scope_overrides": {"activations": {"fc": {"quantizer": "fp8_e5m2", "bits": 6}}}},
            r'scope_overrides.activations\["fc"\].bits: found 6',
        ),
        (
            {
                "weights": {"quantizer": "fp8_e4m3"},
                "initializer": {"precision": {"bitwidth_per_scope": [[4, "fc|WEIGHT"]]}},
            },
            "initializer.precision: found a quantizer at stem.weight whose bits are not to be chosen",
        ),
    ],
)
def test_what_cannot_be_had(keys, words):
    with pytest.raises(ConfigError, match=words):
        plan(lenet(), **keys)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"weights": {"quantizer": "pact"}}, 'weights.quantizer: found "pact"'),
        ({"activations": {"quantizer": "stretched_elastic"}}, 'activations.quantizer: found "stretched_elastic"'),
        ({"activations": {"group_size": 32}}, "activations.group_size: unknown key"),
        ({"weights": {"group_size": 48}}, "weights.group_size: found 48"),
        ({"weights": {"quantizer": "stretched_elastic", "levels": 5}}, "weights.levels: found 5"),
        ({"activations": {"clipping_regularization_factor": -1}}, "clipping_regularization_factor: found -1"),
    ],
)
def test_what_no_config_says(keys, words):
    with pytest.raises(ConfigError, match=words):
        quantization(**keys)


def test_words_and_statistics_of_a_plan():
    overrides = {"weights": {"fc": {"quantizer": "nncf", "bits": 4, "group_size": 32}}}
    algorithm = quantization(weights={"quantizer": "lsq"}, activations={"quantizer": "pact"}, scope_overrides=overrides)
    plan_summary = algorithm.plan_summary(lenet(), algorithm.plan(lenet(), "ANY").edits)
    words = {str(site): text for site, text in plan_summary.at.items()}
    assert words["stem|weight"] == "int8 (7 bits used) symmetric per channel, learned step"
    assert words["fc|weight"] == "int4 symmetric per group of 32 inputs"
    assert words["relu|output"] == "int8 symmetric per tensor, learned clipping"
    assert plan_summary.report.quantizers["weights", 4, "symmetric", "per-group"] == 1


def test_an_override_that_names_a_quantizer_leaves_the_settings_of_the_other_behind():
    weights = {"quantizer": "stretched_elastic", "levels": 3}
    found = plan(lenet(), weights=weights, scope_overrides={"weights": {"fc": {"quantizer": "nncf", "bits": 4}}})
    kinds = {str(edit.site): edit.transform for edit in found if edit.site.is_parameter}
    assert isinstance(kinds["stem|weight"], StretchedElastic) and isinstance(kinds["fc|weight"], NNCFQuantizer)
    assert kinds["fc|weight"].bits == 4
