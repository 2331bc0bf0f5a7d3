"""Movement sparsity by hand-worked numbers. Both frameworks against numpy: tests/contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.movement_sparsity import (
    MovementMask,
    MovementSparsity,
    capped,
    lowest_threshold,
    masks_at_rate,
    structured,
)
from nncf_ext.channels.groups import ChannelGroup, Member
from nncf_ext.edits import Edit
from nncf_ext.graph import Graph, Node, Parameter, Site
from nncf_ext.schedules import Clock

PARAMS = {"warmup_start_epoch": 1, "warmup_end_epoch": 4, "importance_regularization_factor": 0.01}
LOOSE = {**PARAMS, "enable_structured_masking": False}


def movement(params: dict[str, Any] | None = None, *structures: dict[str, Any], **keys: Any) -> MovementSparsity:
    entry = {"algorithm": "movement_sparsity", "params": params or LOOSE, "sparse_structure_by_scopes": list(structures), **keys}
    algorithm = NNCFConfig.from_dict({"compression": entry}).algorithms()[0]
    assert isinstance(algorithm, MovementSparsity)
    return algorithm


def linear(name: str, shape: tuple[int, ...], axis: int = 0, bias: tuple[int, ...] | None = None, **attrs: Any) -> Node:
    parameters = (Parameter("weight", f"{name}.weight", shape, axis, 1),)
    if bias is not None:
        parameters += (Parameter("bias", f"{name}.bias", bias, 0, 2),)
    return Node(name, "Gemm" if bias else "MatMul", parameters=parameters, attrs=attrs)


def masks_of(algorithm: MovementSparsity, *nodes: Node) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    plan = algorithm.plan(Graph(nodes, ()), "ANY")
    return {str(edit.site): (edit.transform.shape, edit.transform.block) for edit in plan}  # type: ignore[attr-defined]


# Where masks go -----------------------------------------------------------------------------------------------------------


def test_one_config_is_one_structure_whichever_way_round_weights_are_stored():
    block = {"mode": "block", "sparse_factors": [2, 3], "target_scopes": "{re}block"}
    rows = {"mode": "per_dim", "axis": 0, "target_scopes": "{re}rows"}
    columns = {"mode": "per_dim", "axis": 1, "target_scopes": "{re}columns"}
    found = masks_of(
        movement(LOOSE, block, rows, columns),
        linear("block/out_in", (4, 6), 0, (4,)),
        linear("block/in_out", (6, 4), 1, (4,)),
        linear("rows/out_in", (4, 6), 0, (4,)),
        linear("rows/in_out", (6, 4), 1),
        linear("columns/out_in", (4, 6), 0, (4,)),
        linear("columns/in_out", (6, 4), 1),
        linear("fine", (4, 6), 0, (4,)),
    )
    assert found == {
        "block/out_in|weight": ((4, 6), (2, 3)),
        "block/out_in|bias": ((4,), (2,)),
        "block/in_out|weight": ((6, 4), (3, 2)),
        "block/in_out|bias": ((4,), (2,)),
        "rows/out_in|weight": ((4, 6), (1, 6)),
        "rows/out_in|bias": ((4,), (1,)),
        "rows/in_out|weight": ((6, 4), (6, 1)),
        "columns/out_in|weight": ((4, 6), (4, 1)),
        "columns/out_in|bias": ((4,), (4,)),
        "columns/in_out|weight": ((6, 4), (1, 4)),
        "fine|weight": ((4, 6), (1, 1)),
        "fine|bias": ((4,), (1,)),
    }


def test_projections_of_an_attention_are_matrices_of_their_outputs_and_inputs():
    query = linear("query", (8, 2, 3), 2, (2, 3), equation="abc,cde->abde")  # (model, heads, size of a head)
    output = linear("output", (2, 3, 8), 2, (8,), equation="abcd,cde->abe")
    block = {"mode": "block", "sparse_factors": [3, 4], "target_scopes": "query"}
    rows = {"mode": "per_dim", "axis": 0, "target_scopes": "output"}
    assert masks_of(movement(LOOSE, block, rows), query, output) == {
        "query|weight": ((8, 6), (4, 3)),
        "query|bias": ((6,), (3,)),
        "output|weight": ((6, 8), (6, 1)),
        "output|bias": ((8,), (1,)),
    }


def test_what_is_no_matrix_is_left_out_with_the_reason():
    nodes = (
        linear("good", (4, 6)),
        linear("outside", (4, 6)),
        linear("grouped", (2, 3, 4), 2, equation="agb,gbc->agc"),
        linear("mixed", (2, 3, 4), 2, equation="ab,cbd->acd"),
        linear("batched", (2, 3, 4)),
        linear("tied", (4, 6)),
        Node("embedding", "Gather", parameters=(Parameter("weight", "tied.weight", (4, 6), 1, 0),)),
    )
    plan = movement(LOOSE, ignored_scopes=["outside"]).plan(Graph(nodes, ()), "ANY")
    assert [str(edit.site) for edit in plan] == ["good|weight"]
    reasons = dict(plan.skipped)
    assert reasons["outside"] == "outside the scopes of movement_sparsity"
    assert "neither summed over" in reasons["grouped"] and "side by side" in reasons["mixed"]
    assert "3 axes" in reasons["batched"] and "shared with embedding" in reasons["tied"]
    assert "for linear layers" in reasons["embedding"]


def test_a_shared_weight_has_one_mask():
    first, second = linear("first", (4, 6), 0, (4,)), linear("second", (4, 6), 0, (4,))
    second = Node("second", "Gemm", parameters=first.parameters)
    plan = movement().plan(Graph((first, second), ()), "ANY")
    assert [[str(site) for site in edit.sites] for edit in plan] == [
        ["first|weight", "second|weight"],
        ["first|bias", "second|bias"],
    ]


LINEAR = (linear("a", (4, 6), 0, (4,)), linear("b", (4, 6)))


@pytest.mark.parametrize(
    ("structures", "words"),
    [
        (
            [{"mode": "block", "sparse_factors": [3, 4], "target_scopes": "a"}],
            r"compression.sparse_structure_by_scopes\[0\].sparse_factors: found \[3, 4\], expected divisors of \[4, 6\], "
            "the outputs and inputs of a",
        ),
        (
            [{"mode": "fine", "target_scopes": "{re}."}, {"mode": "per_dim", "axis": 0, "target_scopes": "b"}],
            r"compression.sparse_structure_by_scopes\[1\].target_scopes: b is in compression.sparse_structure_by_scopes\[0\] too",
        ),
        ([{"mode": "fine", "target_scopes": "c"}], r"sparse_structure_by_scopes\[0\].target_scopes: \"c\" matches no node"),
    ],
)
def test_structures_that_do_not_fit_the_model(structures, words):
    with pytest.raises(ConfigError, match=words):
        movement(LOOSE, *structures).plan(Graph(LINEAR, ()), "ANY")


def test_a_model_without_linear_layers_or_channels_is_refused():
    with pytest.raises(ConfigError, match="compression: found no linear layer to sparsify"):
        movement(ignored_scopes=["{re}."]).plan(Graph(LINEAR, ()), "ANY")
    with pytest.raises(ConfigError, match="compression.params.enable_structured_masking: found true, expected false"):
        movement(PARAMS).plan(Graph(LINEAR, ()), "ANY")


@pytest.mark.parametrize(
    ("params", "structure", "words"),
    [
        ({"warmup_end_epoch": 1}, {}, "params.warmup_end_epoch: found 1, expected more than warmup_start_epoch 1"),
        ({"warmup_start_epoch": 0}, {}, "params: the key 'steps_per_epoch' is missing, it is required with warmup_start_epoch 0"),
        ({"warmup_start_epoch": -1}, {}, "params.warmup_start_epoch: found -1"),
        ({"importance_regularization_factor": -0.1}, {}, "params.importance_regularization_factor: found -0.1"),
        ({"initial_importance_threshold": 0}, {}, "unknown key, did you mean 'init_importance_threshold'"),
        ({}, {"mode": "block"}, r"sparse_structure_by_scopes\[0\]: the key 'sparse_factors' is missing, mode 'block' needs it"),
        ({}, {"mode": "per_dim"}, "the key 'axis' is missing, mode 'per_dim' needs it"),
        ({}, {"mode": "per_dim", "axis": 2}, "axis: found 2"),
        ({}, {"mode": "per_dim", "axis": 0, "sparse_factors": [2, 2]}, "sparse_factors: found with mode 'per_dim'"),
        ({}, {"mode": "fine", "axis": 0}, "axis: found with mode 'fine'"),
        ({}, {"mode": "fine", "sparse_factors": [2, 1]}, "sparse_factors: found with mode 'fine'"),
        ({}, {"mode": "block", "sparse_factors": [0, 1]}, "sparse_factors"),
    ],
)
def test_mistakes_in_the_config(params, structure, words):
    structures = [{**structure, "target_scopes": "a"}] if structure else []
    with pytest.raises(ConfigError, match=words):
        movement({**LOOSE, **params}, *structures)


def test_params_are_required_and_fine_may_say_so():
    with pytest.raises(ConfigError, match="compression: the key 'params' is missing"):
        NNCFConfig.from_dict({"compression": {"algorithm": "movement_sparsity"}})
    movement(LOOSE, {"mode": "fine", "sparse_factors": [1, 1], "target_scopes": "a"})


# Arithmetic ---------------------------------------------------------------------------------------------------------------


def test_the_mask_of_blocks_by_hand():
    transform = MovementMask(shape=(2, 4), block=(1, 2))
    variables = {
        "score": np.array([[0.5, -0.1], [0.1, 0.2]], np.float32),
        "mask": np.ones((2, 4), np.uint8),
        "schedule": np.array([0.1, 0, 1], np.float32),
    }
    x = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    assert transform.apply(xp, x, variables, True).tolist() == [[1, 2, 0, 0], [0, 0, 7, 8]]  # 0.1 is not above 0.1
    variables |= {"mask": np.array([[1, 0, 1, 0], [0, 0, 0, 1]], np.uint8), "schedule": np.array([-9, 0, 0], np.float32)}
    assert transform.apply(xp, x, variables, True).tolist() == [[1, 0, 3, 0], [0, 0, 0, 8]]
    assert transform.mask(variables).tolist() == variables["mask"].astype(bool).tolist()


@given(
    scores=hnp.arrays(np.float32, st.integers(1, 120), elements=st.floats(-1, 1, width=16)),
    cells=st.integers(1, 5),
    threshold=st.floats(-1.5, 1.5, width=16),
)
def test_no_threshold_is_above_the_quantile_of_all_cells(scores, cells, threshold):
    cap = float(np.quantile(np.repeat(scores, cells).astype(np.float64), 0.98))
    assert capped(xp, scores, threshold, cells) == pytest.approx(min(threshold, cap), abs=1e-6)


def test_the_cap_by_hand():
    scores = np.arange(101, dtype=np.float32)  # the 0.98-quantile of 0..100 is 98
    assert capped(xp, scores, 97.5, 1) == 97.5
    assert capped(xp, scores, 200, 1) == 98
    assert capped(xp, np.array([1, 2], np.float32), 1.5, 3) == 1.5
    assert capped(xp, np.array([1, 2], np.float32), 5, 3) == 2  # position 4.9 of 1 1 1 2 2 2


def test_the_first_threshold_prunes_a_thousandth_of_the_cells():
    assert lowest_threshold([(np.zeros((3, 3)), 4), (np.zeros(3), 2)], 0.001) is None
    fine, blocks = np.arange(1000.0, 4000.0), np.array([5.0, 7.0, 1e6])
    assert lowest_threshold([(fine, 1)], 0.001) == 1003  # k = 4
    assert lowest_threshold([(fine, 1), (blocks, 2)], 0.001) == 7  # k = 4 of 5 5 7 7 1000 ...


@given(
    parts=st.lists(
        st.tuples(hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-9, 9)), st.integers(1, 6)), min_size=1
    ),
    share=st.floats(0, 0.9),
)
def test_the_first_threshold_is_the_kth_lowest_of_all_cells(parts, share):
    cells = np.sort(np.concatenate([np.repeat(score, count) for score, count in parts]))
    found = lowest_threshold(parts, share)
    assert found == (None if cells[0] == cells[-1] else cells[int(share * len(cells))])


def test_masks_at_a_rate_by_hand():
    fine, rows = MovementMask(shape=(4,), block=(1,)), MovementMask(shape=(2, 3), block=(1, 3))
    scores = [(np.array([0.4, 0.1, 0.1, 0.9]), fine), (np.array([[0.3], [0.2]]), rows)]
    assert [keep.tolist() for keep in masks_at_rate(scores, 0.5)] == [[True, False, False, True], [[True], [False]]]
    assert [keep.tolist() for keep in masks_at_rate(scores, 0.1)] == [[True, False, True, True], [[True], [True]]]
    assert not np.concatenate([keep.ravel() for keep in masks_at_rate(scores, 1.0)]).any()


def test_a_head_goes_only_where_nothing_of_it_is_left():
    """Three heads of two channels, model size 2: the first survives in one cell of the key, the second in a bias."""

    def edit(name: str, slot: str, *shape: int) -> Edit:
        return Edit((Site(name, slot),), MovementMask(shape=shape, block=(1,) * len(shape)), "movement_sparsity")

    heads = (0, 0, 1, 1, 2, 2)
    outputs = {name: edit(name, "weight", 6, 2) for name in "qkv"}
    biases = {name: edit(name, "bias", 6) for name in "qkv"}
    final, final_bias = edit("o", "weight", 2, 6), edit("o", "bias", 2)
    masks = {e: np.zeros(e.transform.shape, bool) for e in (*outputs.values(), *biases.values(), final, final_bias)}  # type: ignore[attr-defined]
    masks[outputs["k"]][1, 0] = True
    masks[biases["v"]][2] = True
    masks[final_bias][0] = True
    members = [Member(e.site, 0, heads, "output") for e in outputs.values()]
    members += [Member(e.site, 0, heads, "follower") for e in biases.values()]
    group = ChannelGroup("q", 3, (*members, Member(final.site, 1, heads, "input")))
    result, kept = structured(masks, [group])
    assert kept == {"q": [0, 1]}
    alive = np.array([1, 1, 1, 1, 0, 0], bool)
    for name in "qkv":
        assert (result[outputs[name]] == alive[:, None]).all() and (result[biases[name]] == alive).all()
    assert (result[final] == alive).all()
    assert (result[final_bias] == masks[final_bias]).all()


def test_a_weight_in_two_groups_keeps_what_both_keep():
    middle = Edit((Site("middle", "weight"),), MovementMask(shape=(2, 3), block=(1, 1)), "movement_sparsity")
    masks = {middle: np.array([[1, 0, 0], [0, 0, 0]], bool)}
    before = ChannelGroup("first", 3, (Member(middle.site, 1, (0, 1, 2), "input"),))
    after = ChannelGroup("middle", 2, (Member(middle.site, 0, (0, 1), "output"),))
    result, kept = structured(masks, [before, after])
    assert result[middle].tolist() == [[True, False, False], [False, False, False]]
    assert kept == {"first": [0], "middle": [0]}


# Schedule -----------------------------------------------------------------------------------------------------------------


def test_threshold_and_factor_rise_on_a_cubic_curve():
    algorithm = movement({**LOOSE, "final_importance_threshold": 0.5})
    assert algorithm.scheduled(0.99, -0.3) == (-math.inf, 0.0)
    assert algorithm.scheduled(1, -0.3) == (-0.3, 0.0)
    threshold, factor = algorithm.scheduled(2.5, -0.3)  # half way: 1 - 0.5^3
    assert threshold == pytest.approx(-0.3 + 0.875 * 0.8) and factor == pytest.approx(0.00875)
    assert algorithm.scheduled(4, -0.3) == (0.5, 0.01) == algorithm.scheduled(9, None)
    assert algorithm.scheduled(2, None)[0] == -math.inf  # no score has moved yet


def test_the_stage_follows_the_warm_up():
    algorithm = movement()
    stages = [algorithm.stage(Clock(epoch=epoch), algorithm.start()).value for epoch in (-1, 0, 1, 3, 4, 9)]
    assert stages == [0, 0, 1, 1, 2, 2]
