"""What a stripped model keeps of its quantizers: the same grid, as a scale and a zero point of 8-bit codes."""

from __future__ import annotations

import numpy as np
import pytest

from nncf_ext import numpy_xp
from nncf_ext.algorithms.sparsity import BinaryMask
from nncf_ext.edits import MASK, Edit, Range
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers import NNCFQuantizer
from nncf_ext.quantization.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from nncf_ext.quantization.quantizers.fixed import Affine, FixedQuantizer, affine, fixed
from nncf_ext.quantization.quantizers.float8 import Float8
from nncf_ext.quantization.quantizers.groups import GroupQuantizer
from nncf_ext.quantization.quantizers.lsq import LSQ, LSQPlus
from nncf_ext.quantization.quantizers.pact import PACT
from nncf_ext.quantization.quantizers.stretched_elastic import StretchedElastic

X = np.random.default_rng(0).normal(0, 2, (6, 5)).astype(np.float32)
WEIGHT, ACTIVATION = Site("fc", "weight"), Site("fc", "input:0")


def calibrated(transform, x=X):
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    if getattr(transform, "channel_axis", None) is None:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    transform, variables = transform.calibrate(x.shape, Range(low, high, x.reshape(low.size, -1)))
    return transform, {name: var.value for name, var in variables.items()}


def as_fixed(site, transform, variables):
    return fixed(Edit((site,), transform, "quantization"), numpy_xp, variables, np.asarray)


KEPT = {  # (transform, codes of a weight, of an activation); None where a weight is left rounded, and no more
    "int8": (NNCFQuantizer(bits=8, symmetric=True, signed=True), (-128, 127), (0, 255)),
    "narrow": (NNCFQuantizer(bits=8, symmetric=True, signed=True, narrow=True, channel_axis=0), (-127, 127), (0, 254)),
    "half": (NNCFQuantizer(bits=8, symmetric=True, signed=True, half=True, channel_axis=0), (-64, 63), (0, 127)),
    "unsigned": (NNCFQuantizer(bits=8, symmetric=True, signed=False), (0, 255), (0, 255)),
    "4 bits": (NNCFQuantizer(bits=4, symmetric=True, signed=True), (-8, 7), (0, 15)),
    "asymmetric": (NNCFQuantizer(bits=8, symmetric=False, channel_axis=0), (0, 255), (0, 255)),
    "logarithm": (NNCFQuantizer(bits=8, symmetric=True, signed=True, logarithm=True), (-128, 127), (0, 255)),
    "lsq": (LSQ(bits=4, symmetric=True, signed=True, elements=5), (-8, 7), (0, 15)),
    "lsq_plus": (LSQPlus(bits=4, symmetric=False, signed=False, elements=5), (0, 15), (0, 15)),
    "pact": (PACT(bits=8, symmetric=True, signed=True), (-127, 127), (0, 254)),
    "dorefa": (DoReFaActivation(bits=8, symmetric=True, signed=True, learned=False), (-127, 127), (0, 254)),
}


@pytest.mark.parametrize("name", KEPT)
def test_values_are_the_same(name):
    transform, of_weight, of_activation = KEPT[name]
    transform, variables = calibrated(transform)
    y = transform.apply(numpy_xp, X, variables, False)
    for site, codes, given in ((WEIGHT, of_weight, y), (ACTIVATION, of_activation, X)):  # weights are rounded by then
        edit, values = as_fixed(site, transform, variables)
        kept = {name: var.value for name, var in values.items()}
        assert (edit.transform.lowest, edit.transform.highest) == codes and edit.sites == (site,)
        assert kept["scale"].dtype == np.float32 and kept["zero_point"].dtype == np.int32
        assert not any(var.trainable for var in values.values())
        np.testing.assert_array_equal(edit.transform.apply(numpy_xp, given, kept, False), y)
        again = fixed(edit, numpy_xp, kept, np.asarray)
        assert again is not None and again[0] == edit and (again[1]["zero_point"].value == kept["zero_point"]).all()


@pytest.mark.parametrize("name", KEPT)
def test_operators_of_frameworks_give_the_same(name):
    """(clip(round(x / scale) + zero_point, ends of 8-bit codes) - zero_point) * scale, after clipping where `clips` says so."""
    transform, _, _ = KEPT[name]
    transform, variables = calibrated(transform)
    found = affine(numpy_xp, transform, variables, False)
    assert found is not None
    x = np.clip(X, *found.ends) if found.clips else X
    codes = np.clip(np.round(x / found.scale) + found.zero_point, *found.codes)
    np.testing.assert_array_equal((codes - found.zero_point) * found.scale, transform.apply(numpy_xp, X, variables, False))


def test_signed_activations_are_uint8():
    transform, variables = calibrated(NNCFQuantizer(bits=8, symmetric=True, signed=True))
    _, values = as_fixed(ACTIVATION, transform, variables)
    assert values["zero_point"].value.item() == 128


def test_rounded_weights_that_the_operators_cannot_say():
    eight_bits = DoReFaWeight(bits=8)  # the odd ones of 511 levels
    by_group = GroupQuantizer(bits=4, symmetric=True, group_size=2, axis=0)
    float8 = Float8(format="float8_e4m3fn", of_weight=True)
    assert as_fixed(WEIGHT, eight_bits, {}) is None
    assert as_fixed(WEIGHT, by_group, {"scale": np.ones((3, 5), np.float32)}) is None
    assert as_fixed(WEIGHT, float8, {}) is None
    assert as_fixed(WEIGHT, BinaryMask(), {"mask": np.ones((6, 5), np.float32)}) is None
    assert BinaryMask.stage == MASK


STRETCHED = [StretchedElastic(levels=levels, elements=30) for levels in (3, 4)]


STRETCHED = [StretchedElastic(levels=3, elements=30), StretchedElastic(levels=4, elements=30)]


@pytest.mark.parametrize("transform", [DoReFaWeight(bits=4), *STRETCHED])
def test_weights_with_levels_left_out(transform):
    transform, variables = calibrated(transform)
    y = transform.apply(numpy_xp, X, variables, False)
    edit, values = as_fixed(WEIGHT, transform, variables)
    kept = {name: var.value for name, var in values.items()}
    np.testing.assert_array_equal(edit.transform.apply(numpy_xp, y, kept, False), y)


def test_float8_activations_stay():
    transform, variables = calibrated(Float8(format="float8_e5m2", of_weight=False))
    edit, values = as_fixed(ACTIVATION, transform, variables)
    assert edit.transform == transform and values["scale"].value == variables["scale"]


def test_codes():
    assert Affine(1, 0, -127, 127).clips and not Affine(1, 0, -128, 127).clips and not Affine(1, 7, 0, 255).clips
    assert Affine(0.5, 128, 0, 255).ends == (-64, 63.5)
    assert (
        FixedQuantizer(lowest=0, highest=255).encoded(
            numpy_xp, {"scale": np.ones(1, np.float32), "zero_point": np.zeros(1, np.int32)}
        )
        is not None
    )
