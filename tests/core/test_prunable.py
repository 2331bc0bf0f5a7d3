"""Which units go, and what is left of the model: worked by hand, and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext.channels.groups import ChannelGroup, Member
from nncf_ext.channels.prunable import (
    PrunableModel,
    by_share,
    least_important,
    least_important_for_flops,
    most_without_emptying,
    same_share,
    same_share_for_flops,
    same_share_levels,
)
from nncf_ext.edits import Removal
from nncf_ext.graph import INPUT, Edge, Graph, Node, Parameter, Site


def groups(*sizes, channels=1):
    """A model of layers with `size` units of `channels` channels each."""
    nodes, found = [], []
    for number, size in enumerate(sizes):
        name, units = f"g{number}", tuple(unit for unit in range(size) for _ in range(channels))
        nodes.append(Node(name, "Gemm", name, (Parameter("weight", f"{name}.w", (len(units), 3), 0),)))
        found.append(ChannelGroup(name, size, (Member(Site(name, "weight"), 0, units, "output"),)))
    return PrunableModel(Graph(tuple(nodes), ()), found)


def gone(keep):
    return [np.flatnonzero(~units).tolist() for units in keep]


@pytest.mark.parametrize(
    ("size", "channels", "level", "left"),
    [
        (64, 1, 0.5, 32),
        (64, 1, 0.4, 40),  # ceil(38.4 / 8) * 8
        (64, 1, 0.99, 8),
        (64, 1, 1.0, 8),
        (20, 1, 0.5, 16),
        (20, 1, 0.1, 20),  # 18 -> 24, which there are not
        (8, 1, 0.9, 8),
        (6, 1, 0.9, 6),
        (12, 64, 0.5, 6),  # heads of 64 channels are multiples of 8 by themselves
        (12, 64, 0.99, 1),
        (12, 4, 0.5, 6),
        (12, 4, 0.6, 6),  # two units make 8 channels
        (10, 1, 0.2, 8),  # 10 * (1 - 0.2) is not 8 in floating point
    ],
)
def test_what_is_left_are_multiples_of_eight_channels(size, channels, level, left):
    keep = same_share(groups(size, channels=channels), [np.arange(size)[::-1]], level)
    assert keep[0].sum() == left
    assert keep[0][:left].all()  # the most important ones


def test_every_group_has_its_own_level():
    keep = by_share(groups(16, 32), [np.arange(16), np.arange(32)], [0.5, 0.25])
    assert gone(keep) == [list(range(8)), list(range(8))]


def test_the_least_important_of_all_go_first_and_the_last_of_a_group_stays():
    scores = [np.array([0.1, 0.2]), np.array([0.3, 0.9, 0.4])]
    assert gone(least_important(scores, 1)) == [[0], []]
    assert gone(least_important(scores, 2)) == [[0], [0]]
    assert gone(least_important(scores, 3)) == [[0], [0, 2]]
    assert most_without_emptying(groups(2, 3).groups) == 3


def test_ties_go_in_the_order_of_groups_and_units():
    assert gone(least_important([np.ones(3), np.ones(3)], 3)) == [[0, 1], [0]]


@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=12), min_size=1, max_size=5), st.data())
def test_counts_are_exact_and_nothing_kept_is_smaller(scores, data):
    scores = [np.array(score, float) for score in scores]
    count = data.draw(st.integers(0, sum(len(score) - 1 for score in scores)))
    keep = least_important(scores, count)
    assert sum(int((~units).sum()) for units in keep) == count
    assert all(units.any() for units in keep)
    for score, units in zip(scores, keep, strict=True):
        assert units.all() or score[units].min() >= score[~units].max()


def test_levels_at_which_the_share_changes():
    assert same_share_levels(groups(24, 8)) == pytest.approx([0, 1 / 3, 2 / 3])


def test_heads_that_are_an_axis_of_their_own():
    """Keras' (inputs, heads, channels of a head): a head of 16 channels goes by itself."""
    weight = Parameter("weight", "q.w", (64, 8, 16), 2)
    node = Node("q", "MatMul", "q", (weight,), {"equation": "abc,cde->abde"})
    heads = ChannelGroup("q", 8, (Member(Site("q", "weight"), 1, tuple(range(8)), "output"),))
    assert PrunableModel(Graph((node,), ()), [heads]).steps == (1,)


# in -> a: 4 -> 16 -> b: 16 -> 24 -> c: 24 -> 2, all with weights (outputs, inputs); 128 + 768 + 96 FLOPs
def _chain():
    layers = {"a": (16, 4), "b": (24, 16), "c": (2, 24)}
    nodes = [Node("in", INPUT), *(Node(n, "Gemm", n, (Parameter("weight", f"{n}.w", s, 0),)) for n, s in layers.items())]
    edges = [
        Edge("in", "a", shape=(1, 4)),
        Edge("a", "b", shape=(1, 16)),
        Edge("b", "c", shape=(1, 24)),
        Edge("c", "out", shape=(1, 2)),
    ]
    nodes.append(Node("out", "Output"))

    def coupled(maker, reader, size):
        return ChannelGroup(
            maker,
            size,
            (
                Member(Site(maker, "weight"), 0, tuple(range(size)), "output"),
                Member(Site(reader, "weight"), 1, tuple(range(size)), "input"),
            ),
        )

    return PrunableModel(Graph(tuple(nodes), tuple(edges)), [coupled("a", "b", 16), coupled("b", "c", 24)])


def test_cost_and_removals():
    model = _chain()
    keep = least_important([np.arange(16.0), np.arange(24.0) + 3.5], 5)  # 0, 1, 2, 3 of a, then 0 of b
    assert model.full.flops == 2 * (64 + 384 + 48)
    assert model.cost(keep).flops == 2 * (12 * 4 + 23 * 12 + 2 * 23)
    assert model.removals(keep) == (
        Removal(Site("a", "weight"), 0, tuple(range(4, 16))),
        Removal(Site("b", "weight"), 1, tuple(range(4, 16))),
        Removal(Site("b", "weight"), 0, tuple(range(1, 24))),
        Removal(Site("c", "weight"), 1, tuple(range(1, 24))),
    )


def test_flops_with_the_same_share():
    """Levels 0, 1/3 (16 of 24 left), 1/2 (8 of 16), 2/3: 992, 704, 416, 272 FLOPs."""
    model, scores = _chain(), [np.arange(16), np.arange(24)]
    for wanted, left in ((992, (16, 24)), (991, (16, 16)), (704, (16, 16)), (500, (8, 16)), (300, (8, 8)), (0, (8, 8))):
        assert tuple(units.sum() for units in same_share_for_flops(model, scores, wanted)) == left


def test_flops_with_the_least_important():
    """A unit of a costs 2 * (4 + 24), one of b 2 * (16 + 2), before others go; nine in ten of a group may go."""
    model = _chain()
    scores = [np.arange(16) + 100.0, np.arange(24.0)]
    assert gone(least_important_for_flops(model, scores, 992)) == [[], []]
    assert gone(least_important_for_flops(model, scores, 992 - 36)) == [[], [0]]
    assert gone(least_important_for_flops(model, scores, 992 - 37)) == [[], [0, 1]]
    assert [len(units) for units in gone(least_important_for_flops(model, scores, 0))] == [14, 21]


def test_parts_of_a_concatenation():
    """A norm's scale over [a, b]: each group speaks of its own indices."""
    site = Site("n", "weight")
    nodes = [Node("n", "BatchNormalization", "n", (Parameter("weight", "n.w", (5,), 0),))]
    nodes += [Node(n, "Gemm", n, (Parameter("weight", f"{n}.w", (size, 4), 0),)) for n, size in (("a", 2), ("b", 3))]
    groups = [
        ChannelGroup("a", 2, (Member(Site("a", "weight"), 0, (0, 1), "output"), Member(site, 0, (0, 1, -1, -1, -1), "follower"))),
        ChannelGroup(
            "b", 3, (Member(Site("b", "weight"), 0, (0, 1, 2), "output"), Member(site, 0, (-1, -1, 0, 1, 2), "follower"))
        ),
    ]
    model = PrunableModel(Graph(tuple(nodes), ()), groups)
    keep = [np.array([True, False]), np.array([False, True, True])]
    assert Removal(site, 0, (0, 3, 4)) in model.removals(keep)
    assert model.cost(keep).parameters == 3 + 4 * (1 + 2)
