"""Numbers of connections, and how they move: worked by hand, by the paper's formulas, and as properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.dynamic_sparse_training import NOfMMask
from nncf_ext.graph import Graph, Node, Parameter
from nncf_ext.sparsity.connections import Structure, drop_and_grow, erdos_renyi_densities, first_units, random_scores
from nncf_ext.sparsity.selection import descending_ranks, keep_largest, n_of_m


def algorithm(**params):
    config = {"compression": {"algorithm": "dynamic_sparse_training", "params": {"sparsity_target": 0.9, **params}}}
    return NNCFConfig.from_dict(config).algorithms()[0]


def linear(name, outputs, inputs):
    weight = Parameter("weight", f"{name}.weight", (outputs, inputs), channel_axis=0, port=1, input_axis=1)
    return Node(name, "Gemm", name, (weight,))


def test_densities_of_the_lenets():
    """Worked out with the rule of google-research/rigl."""
    dense = erdos_renyi_densities([(784, 300), (300, 100), (100, 10)], 0.9)
    assert dense == pytest.approx([0.0795678, 0.2301887, 1.0], abs=1e-7)
    assert sum(n - math.floor((1 - d) * n + 1e-9) for n, d in zip([235200, 30000, 1000], dense, strict=True)) == pytest.approx(
        26620, abs=3
    )
    convolutional = erdos_renyi_densities([(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)], 0.9)
    assert convolutional == pytest.approx([1, 0.0870725, 0.0884330, 1], abs=1e-7)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6), st.floats(0.01, 0.99))
def test_densities_use_the_whole_budget(shapes, level):
    density = erdos_renyi_densities(shapes, level)
    sizes = [math.prod(shape) for shape in shapes]
    assert all(0 < d <= 1 + 1e-9 for d in density)
    assert sum(d * n for d, n in zip(density, sizes, strict=True)) == pytest.approx((1 - level) * sum(sizes), rel=1e-6)


def test_two_of_four_by_hand():
    w = np.array([[0.1, -0.4, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5]], np.float32)
    assert n_of_m(xp, abs(w), 2).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]  # of equal ones the first
    transform = NOfMMask(n=2, m=4, working=(2, 4), output_axis=0, input_axis=1)
    np.testing.assert_array_equal(transform.apply(xp, w, {}, False), w * n_of_m(xp, abs(w), 2))


def test_groups_of_a_convolution_are_of_inputs():
    """(kernel, kernel, inputs, outputs) as Keras has it: two of four inputs at each position of each output."""
    w = np.random.default_rng(0).normal(size=(3, 3, 8, 5)).astype(np.float32)
    mask = NOfMMask(n=2, m=4, working=w.shape, output_axis=3, input_axis=2).mask(xp, w)
    assert (mask.reshape(3, 3, 2, 4, 5).sum(3) == 2).all()
    lost = np.where(mask == 0, abs(w), -np.inf).reshape(3, 3, 2, 4, 5).max(3)
    assert (lost <= np.where(mask == 1, abs(w), np.inf).reshape(3, 3, 2, 4, 5).min(3)).all()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_keep_largest_keeps_exactly_so_many(values, data):
    score = np.array(values, np.float32)
    kept = data.draw(st.integers(0, len(values)))
    keep = keep_largest(xp, score, kept)
    assert keep.sum() == kept
    if 0 < kept < len(values):
        assert score[keep].min() >= score[~keep].max()


def test_ranks():
    assert descending_ranks(xp, np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 7.0]])).tolist() == [[2, 0, 1], [1, 2, 0]]


STRUCTURES = [
    Structure("unstructured", (8, 12), (8, 12), 0, 1),
    Structure("constant_fan_in", (8, 12), (8, 12), 0, 1),
    Structure("n:m", (3, 8, 4), (3, 8, 4), 2, 1, group=4),
    Structure("block", (8, 12), (8, 12), 0, 1, block=(2, 3)),
    Structure("block", (3, 12, 8), (3, 12, 8), 2, 1, block=(2, 3)),
    Structure("channel", (3, 3, 4, 8), (3, 3, 4, 8), 3, 2),
    Structure("unstructured", (4, 2, 6), (4, 12), 0, 1),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: f"{s.kind}-{s.shape}")
def test_units_and_back(structure):
    x = np.random.default_rng(1).normal(size=structure.shape).astype(np.float32)
    units = structure.units(xp, x)
    assert units.shape == structure.groups
    assert units.sum() == pytest.approx(x.sum(), rel=1e-3)
    spread = structure.spread(xp, units)
    assert spread.shape == structure.shape
    np.testing.assert_allclose(structure.units(xp, spread), units * structure.unit_size, rtol=1e-5)


def test_first_weights_grow_by_the_connections_an_output_lost():
    mask = np.zeros((2, 8), np.float32)
    mask[0, :2] = 1  # two of eight inputs: sqrt(8 / 2); the other output has none, and its weights are zero
    np.testing.assert_allclose(Structure("unstructured", (2, 8), (2, 8), 0, 1).gain(xp, mask)[0], 2.0)
    kernels = np.zeros((3, 3, 4, 8), np.float32)  # height, width, inputs, outputs, as in Keras
    kernels[0, 0, :, 5] = 1
    gain = Structure("block", kernels.shape, kernels.shape, 3, 2, block=(2, 2)).gain(xp, kernels)
    np.testing.assert_allclose(gain[..., 5], 3.0)
    assert gain.shape == kernels.shape


def test_signals_keep_their_size_through_sparse_layers():
    rng = np.random.default_rng(0)
    x, structure = rng.normal(size=(64, 256)), Structure("unstructured", (256, 256), (256, 256), 0, 1)
    for layer in range(20):
        mask = first_units(xp, structure, random_scores(0, layer, structure), structure.kept_units(0.9))
        mask = structure.spread(xp, mask.astype(np.float32))
        w = rng.normal(scale=math.sqrt(2 / 256), size=(256, 256)) * mask * structure.gain(xp, mask)
        x = np.maximum(x @ w.T, 0)
    assert 0.1 < np.square(x).mean() < 10  # without the gain 1e-20


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: f"{s.kind}-{s.shape}")
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), level=st.floats(0.1, 0.8), share=st.floats(0, 0.9))
def test_moving_keeps_the_number_of_connections_of_every_group(structure, seed, level, share):
    rng = np.random.default_rng(seed)
    kept = 2 if structure.kind == "n:m" else structure.kept_units(level)
    present = first_units(xp, structure, rng.random(structure.groups), kept)
    assert (present.sum(1) == kept).all()
    size = rng.random(structure.groups)
    score = rng.random(structure.groups)
    moved = int(share * present.sum())
    after = drop_and_grow(xp, structure, size, present, score, moved, moved)
    assert (after.sum(1) == kept).all()
    largest = np.sort(size[present])[moved:]
    assert np.isin(largest, size[after]).all()  # what is not among the smallest stays


def test_just_dropped_connections_may_grow_again():
    structure = Structure("unstructured", (1, 4), (1, 4), 0, 1)
    present = np.array([[True, True, False, False]])
    size, score = np.array([[0.1, 0.2, 0.0, 0.0]]), np.array([[9.0, 0.0, 1.0, 2.0]])
    assert drop_and_grow(xp, structure, size, present, score, 1, 1).tolist() == [[True, True, False, False]]
    score[0, 0] = 0
    assert drop_and_grow(xp, structure, size, present, score, 1, 1).tolist() == [[False, True, False, True]]


def test_share_that_moves():
    """RigL, eq. 1, with alpha 0.3 and an end at 75."""
    annealed = algorithm(end=75)
    assert [annealed.drop_fraction(t) for t in (0, 25, 50, 75, 100)] == pytest.approx([0.3, 0.225, 0.075, 0, 0])
    assert algorithm().drop_fraction(50) == algorithm(method="set", end=75).drop_fraction(50) == 0.3
    assert algorithm(method="set", end=75, anneal="cosine").drop_fraction(25) == pytest.approx(0.225)


def test_random_connections_are_the_same_everywhere():
    structure = STRUCTURES[0]
    first = random_scores(3, 1, structure)
    assert (first == random_scores(3, 1, structure)).all()
    assert (first != random_scores(4, 1, structure)).any()
    assert (first != random_scores(3, 2, structure)).any()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sparsity_target": None}, r"params.sparsity_target: .*missing, expected the share"),
        ({"update_interval": 0}, r"update_interval.*0"),
        ({"structure": "4:2"}, r"structure: .*'4:2', expected one of unstructured"),
        ({"structure": "2:4"}, r"sparsity_target: .*0.9, expected none: structure 2:4 says it"),
        ({"method": "sr_ste"}, r"structure: .*expected n:m for sr_ste"),
        ({"method": "granet"}, r"end: .*missing"),
        ({"method": "granet", "end": 10, "sparsity_init": 0.95}, r"sparsity_init: .*at most the target 0.9"),
        ({"method": "ac_dc"}, r"final_epoch: .*missing"),
        (
            {"method": "sr_ste", "structure": "2:4", "sparsity_target": None, "sparse_initialization": True},
            r"found true, .*sr_ste",
        ),
        ({"anneal": "cosine"}, r"end: .*missing, expected the optimizer step at which cosine"),
        ({"drop_fraction": 1.0}, r"drop_fraction"),
        ({"method": "rigel"}, r"method.*rigel.*rigl"),
    ],
)
def test_mistakes(params, message):
    with pytest.raises(ConfigError, match=message):
        algorithm(**params)


def test_layers_that_cannot_have_it():
    graph = Graph((linear("a", 8, 6), linear("b", 2, 8)), ())
    with pytest.raises(ConfigError, match=r"found 2:4, and a has 6 inputs, expected a multiple of 4"):
        algorithm(structure="2:4", sparsity_target=None).plan(graph, "ANY")
    with pytest.raises(ConfigError, match=r"block: found \[4, 4\], and a has 8 outputs and 6 inputs"):
        algorithm(structure="block").plan(graph, "ANY")
    with pytest.raises(ConfigError, match=r"found 0.99, which leaves b 0.16 of 16 connections, expected at least one"):
        algorithm(sparsity_target=0.99, distribution="uniform").plan(Graph((linear("b", 2, 8),), ()), "ANY")
    with pytest.raises(ConfigError, match=r"distribution: .*matches no"):
        algorithm(distribution={"{re}nothing": 0.5}).plan(graph, "ANY")


def test_depthwise_convolutions_stay_dense():
    weight = Parameter("weight", "w", (8, 1, 3, 3), channel_axis=0, port=1, input_axis=1)
    depthwise = Node("dw", "Conv", "dw", (weight,), {"depthwise": True, "groups": 8})
    plan = algorithm().plan(Graph((depthwise, linear("a", 64, 64)), ()), "ANY")
    assert [edit.site.node for edit in plan] == ["a"]
    assert plan.skipped == (("dw", "depthwise convolution: stays dense"),)
