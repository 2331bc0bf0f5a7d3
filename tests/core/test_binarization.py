"""Binarization's arithmetic, by hand."""

import math

import numpy as np
import pytest

from nncf_ext import NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.binarization import Binarization, BinaryActivation, BinaryWeight
from nncf_ext.edits import Range
from nncf_ext.graph import Graph, Node, Parameter

WEIGHT = np.array([[1.0, -3.0], [0.5, 0.0]], np.float32).reshape(2, 2, 1, 1)


def test_xnor_has_a_scale_per_output_channel():
    """Means of absolute values: 2 and 0.25; zero counts as negative."""
    got = BinaryWeight(channel_axis=0).apply(xp, WEIGHT, {}, True)
    assert got.reshape(2, 2).tolist() == [[2, -2], [0.25, -0.25]]
    last = BinaryWeight(channel_axis=-1).apply(xp, WEIGHT.transpose(2, 3, 1, 0), {}, True)
    assert (last == got.transpose(2, 3, 1, 0)).all()


def test_dorefa_has_one_scale():
    got = BinaryWeight().apply(xp, WEIGHT, {}, True)
    assert got.reshape(2, 2).tolist() == [[1.125, -1.125], [1.125, -1.125]]


def test_activations_are_cut_at_threshold_times_scale():
    transform = BinaryActivation(threshold_axis=1)
    _, variables = transform.calibrate((-1, 2, 1, 1), Range(np.full((1, 1, 1, 1), -9.0), np.full((1, 1, 1, 1), 4.0)))
    values = {name: var.value for name, var in variables.items()}
    assert all(var.trainable for var in variables.values())
    assert values["log_scale"].shape == (1, 1, 1, 1) and values["logit"].shape == (1, 2, 1, 1)
    assert math.exp(values["log_scale"].item()) == pytest.approx(4)
    x = np.array([-1, 0, 1.9, 2.1, 4, 9], np.float32).reshape(3, 2, 1, 1)
    assert transform.apply(xp, x, values, False).ravel() == pytest.approx([0, 0, 0, 4, 4, 4])  # a threshold of one half
    values["logit"][0, 1] = math.log(0.75 / 0.25)
    assert transform.apply(xp, x, values, False).ravel() == pytest.approx([0, 0, 0, 0, 4, 4])  # 3 in the second channel
    without_data, scale_of_one = transform.calibrate((-1, 2, 1, 1), None)
    assert without_data is transform and scale_of_one["log_scale"].value.item() == 0


def conv(name, weight, shape, **attrs):
    return Node(name, "Conv", parameters=(Parameter("weight", weight, shape, channel_axis=0),), attrs=attrs)


GRAPH = Graph(
    (
        conv("first", "a", (4, 3, 3, 3)),
        conv("again", "a", (4, 3, 3, 3)),
        conv("line", "b", (4, 3, 3)),
        Node("head", "Gemm", parameters=(Parameter("weight", "c", (2, 4), channel_axis=0),)),
        conv("last", "d", (4, 4, 1, 1), data_format="channels_last"),
    ),
    (),
)


def test_only_two_dimensional_convolutions_in_scope():
    plan = Binarization(ignored_scopes=["last"]).plan(GRAPH, "ANY")
    assert [str(edit.site) for edit in plan] == ["first|input:0", "again|input:0", "first|weight"]
    assert [str(site) for site in plan.edits[-1].sites] == ["first|weight", "again|weight"]
    assert dict(plan.skipped) == {
        "line": "Conv: only two-dimensional convolutions are binarized",
        "head": "Gemm: only two-dimensional convolutions are binarized",
        "last": "outside the scopes of binarization",
    }
    every = Binarization(mode="dorefa").plan(GRAPH, "ANY")
    axes = {edit.key: edit.transform.threshold_axis for edit in every if not edit.site.is_parameter}
    assert axes == {
        "first|input:0|binary_activation": 1,
        "again|input:0|binary_activation": 1,
        "last|input:0|binary_activation": 3,
    }
    assert all(edit.transform.channel_axis is None for edit in every if edit.site.is_parameter)


def test_defaults_are_those_of_nncf():
    (algorithm,) = NNCFConfig.from_dict({"compression": {"algorithm": "binarization"}}).algorithms()
    assert algorithm.mode == "xnor"
    assert (algorithm.params.weights_quant_start_epoch, algorithm.params.activations_quant_start_epoch) == (1, 1)
    assert algorithm.initializer.range.type == "percentile" and algorithm.initializer.range.params.max_percentile == 99.9
    starts = algorithm.range_inits(GRAPH, algorithm.plan(GRAPH, "ANY").edits)
    assert len(starts) == 3 and set(starts.values()) == {algorithm.initializer.range}
