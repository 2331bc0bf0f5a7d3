"""Groups of coupled channels of hand-built graphs, worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext.channels.groups import ChannelGroup, channel_groups, channels_left
from nncf_ext.channels.operators import _reshaped
from nncf_ext.edits import Removal
from nncf_ext.graph import Edge, Graph, Node, Parameter, Site

Shape = tuple[int, ...]


class Net:
    """Writes a graph down, in PyTorch's layout: `x = net.add("Conv", (1, 4, 8, 8), [x], ...)`; tensors are (node, port)."""

    def __init__(self, *inputs: Shape) -> None:
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.shapes: dict[tuple[str, int], Shape] = {}
        self.inputs = [self.add("Input", shape, []) for shape in inputs]

    def add(
        self,
        op: str,
        shape: Shape | list[Shape],
        inputs: Mapping[int, tuple[str, int]] | list[tuple[str, int]],
        parameters: tuple[Parameter, ...] = (),
        name: str = "",
        **attrs: Any,
    ) -> Any:
        name = name or f"{op.lower()}{sum(node.op == op for node in self.nodes)}"
        self.nodes.append(Node(name, op, "", parameters, attrs))
        for port, source in (inputs if isinstance(inputs, Mapping) else dict(enumerate(inputs))).items():
            self.edges.append(Edge(source[0], name, source[1], port, self.shapes[source]))
        shapes = shape if isinstance(shape, list) else [shape]
        self.shapes.update({(name, port): each for port, each in enumerate(shapes)})
        made = [(name, port) for port in range(len(shapes))]
        return made if isinstance(shape, list) else made[0]

    def conv(self, x: tuple[str, int], channels: int, name: str, groups: int = 1, bias: bool = False) -> tuple[str, int]:
        n, c, *rest = self.shapes[x]
        weight = Parameter("weight", f"{name}.weight", (channels, c // groups, 3, 3), 0, 1, input_axis=1)
        own = (weight, Parameter("bias", f"{name}.bias", (channels,), 0, 2)) if bias else (weight,)
        return self.add("Conv", (n, channels, *rest), [x], own, name, groups=groups)

    def linear(self, x: tuple[str, int], features: int, name: str, weight: str = "") -> tuple[str, int]:
        *lead, inputs = self.shapes[x]
        own = Parameter("weight", weight or f"{name}.weight", (features, inputs), 0, 1, input_axis=1)
        return self.add("MatMul", (*lead, features), [x], (own,), name, transB=1)

    def norm(self, x: tuple[str, int], op: str, size: Shape, name: str, **attrs: Any) -> tuple[str, int]:
        own = tuple(Parameter(slot, f"{name}.{slot}", size, 0, port) for slot, port in (("weight", 1), ("bias", 2)))
        return self.add(op, self.shapes[x], [x], own, name, **attrs)

    def unary(self, op: str, x: tuple[str, int], **attrs: Any) -> tuple[str, int]:
        return self.add(op, self.shapes[x], [x], **attrs)

    def groups(self, *outputs: tuple[str, int]) -> tuple[ChannelGroup, ...]:
        for output in outputs:
            self.add("Output", [], [output])
        return channel_groups(Graph(tuple(self.nodes), tuple(self.edges)))


def by_name(groups: tuple[ChannelGroup, ...]) -> dict[str, ChannelGroup]:
    return {group.name: group for group in groups}


def members(group: ChannelGroup) -> dict[tuple[str, int], tuple[str, tuple[int, ...]]]:
    return {(str(member.site), member.axis): (member.role, member.units) for member in group.members}


IMAGE = (1, 3, 8, 8)
ROWS = (1, 5, 8)


def test_a_chain() -> None:
    net = Net(IMAGE)
    x = net.unary("Relu", net.norm(net.conv(*net.inputs, 2, "a", bias=True), "BatchNormalization", (2,), "bn"))
    groups = net.groups(net.conv(x, 3, "b"))
    assert [(group.name, group.size, group.blocked) for group in groups] == [
        ("a", 2, None),
        ("b", 3, "they reach an output of the model"),
    ]
    assert members(groups[0]) == {
        ("a|weight", 0): ("output", (0, 1)),
        ("a|bias", 0): ("follower", (0, 1)),
        ("bn|weight", 0): ("follower", (0, 1)),
        ("bn|bias", 0): ("follower", (0, 1)),
        ("b|weight", 1): ("input", (0, 1)),
    }


def test_what_is_added_goes_together() -> None:
    net = Net(IMAGE)
    a = net.conv(*net.inputs, 4, "a")
    x = net.add("Add", net.shapes[a], [a, net.conv(net.unary("Relu", a), 4, "b")])
    groups = by_name(net.groups(net.conv(x, 2, "last")))
    assert members(groups["a"]) == {
        ("a|weight", 0): ("output", (0, 1, 2, 3)),
        ("b|weight", 1): ("input", (0, 1, 2, 3)),
        ("b|weight", 0): ("output", (0, 1, 2, 3)),
        ("last|weight", 1): ("input", (0, 1, 2, 3)),
    }


def test_parts_of_a_concatenation_are_groups_of_their_own() -> None:
    net = Net(IMAGE)
    a = net.conv(*net.inputs, 2, "a")
    b = net.conv(a, 3, "b")
    x = net.norm(net.add("Concat", (1, 8, 8, 8), [b, *net.inputs, a], axis=1), "BatchNormalization", (8,), "bn")
    groups = by_name(net.groups(net.conv(x, 2, "last")))
    assert members(groups["a"])["last|weight", 1] == ("input", (-1, -1, -1, -1, -1, -1, 0, 1))
    assert members(groups["b"])["bn|bias", 0] == ("follower", (0, 1, 2, -1, -1, -1, -1, -1))
    assert groups["a"].blocked is groups["b"].blocked is None


def test_depthwise_and_grouped_convolutions() -> None:
    net = Net(IMAGE)
    x = net.conv(net.conv(*net.inputs, 4, "a"), 8, "depthwise", groups=4)  # two filters per channel
    x = net.conv(x, 6, "grouped", groups=2, bias=True)  # 4 channels in, 3 out
    group = by_name(net.groups(net.conv(x, 2, "last")))["a"]
    assert group.size == 2 and group.blocked is None
    assert members(group) == {
        ("a|weight", 0): ("output", (0, 0, 1, 1)),
        ("depthwise|weight", 0): ("follower", (0, 0, 0, 0, 1, 1, 1, 1)),
        ("grouped|weight", 0): ("follower", (0, 0, 0, 1, 1, 1)),
        ("grouped|bias", 0): ("follower", (0, 0, 0, 1, 1, 1)),
        ("last|weight", 1): ("input", (0, 0, 0, 1, 1, 1)),
    }


def test_transposed_convolution() -> None:
    net = Net(IMAGE)
    x = net.conv(*net.inputs, 4, "a")
    weight = Parameter("weight", "up.weight", (4, 3, 2, 2), 1, 1, input_axis=0)  # (in, out, ...)
    groups = by_name(net.groups(net.conv(net.add("ConvTranspose", (1, 3, 16, 16), [x], (weight,), "up"), 2, "last")))
    assert members(groups["a"])["up|weight", 0] == ("input", (0, 1, 2, 3))
    assert members(groups["up"]) == {("up|weight", 1): ("output", (0, 1, 2)), ("last|weight", 1): ("input", (0, 1, 2))}


def test_flattened_channels_are_consumed_as_often_as_there_are_positions() -> None:
    net = Net(IMAGE)
    x = net.add("AveragePool", (1, 2, 1, 3), [net.conv(*net.inputs, 2, "a")])
    group = by_name(net.groups(net.linear(net.add("Flatten", (1, 6), [x], axis=1), 2, "last")))["a"]
    assert members(group)["last|weight", 1] == ("input", (0, 0, 0, 1, 1, 1))


def test_shared_weights_join_what_they_read() -> None:
    net = Net(ROWS)
    x = net.linear(*net.inputs, 8, "first")
    x = net.linear(net.linear(x, 8, "once", "shared"), 8, "again", "shared")
    groups = net.groups(net.linear(x, 2, "last"))
    assert members(groups[0]) == {
        ("first|weight", 0): ("output", tuple(range(8))),
        ("once|weight", 1): ("input", tuple(range(8))),
        ("once|weight", 0): ("output", tuple(range(8))),
        ("last|weight", 1): ("input", tuple(range(8))),
    }


def test_a_shared_weight_that_reads_the_input_of_the_model_too() -> None:
    net = Net(ROWS)
    x = net.linear(*net.inputs, 8, "once", "shared")
    groups = net.groups(net.linear(net.linear(x, 8, "again", "shared"), 2, "last"))
    assert by_name(groups)["once"].blocked == "a layer that shares the parameter keeps them"


def test_a_tied_weight_that_another_operator_reads() -> None:
    net = Net((1, 5))
    words = Parameter("weight", "words", (10, 4), 1, 0)
    x = net.linear(net.add("Gather", (1, 5, 4), {1: net.inputs[0]}, (words,), "embedding"), 4, "dense")
    transposed = net.add("Transpose", (4, 10), [], reads=("words",))
    groups = by_name(net.groups(net.add("MatMul", (1, 5, 10), [x, transposed])))
    assert groups["embedding"].blocked == "words is also used where its entries stay"
    assert "MatMul" in (groups["dense"].blocked or "")


def attention(net: Net, heads: int, key_heads: int, size: int) -> tuple[tuple[str, int], ...]:
    """Query, key and value of `heads` and `key_heads` heads, as (batch, heads, length, size)."""
    made = []
    for name, count in (("q", heads), ("k", key_heads), ("v", key_heads)):
        x = net.linear(net.inputs[0], count * size, name)
        x = net.add("Reshape", (1, 5, count, size), [x])
        made.append(net.add("Transpose", (1, count, 5, size), [x], perm=(0, 2, 1, 3)))
    return tuple(made)


def merged(net: Net, x: tuple[str, int], heads: int, size: int) -> tuple[str, int]:
    x = net.add("Transpose", (1, 5, heads, size), [x], perm=(0, 2, 1, 3))
    return net.add("Reshape", (1, 5, heads * size), [x])


def test_a_head_is_a_unit() -> None:
    net = Net(ROWS)
    q, k, v = attention(net, 2, 2, 3)
    k = net.add("Transpose", (1, 2, 3, 5), [k], perm=(0, 1, 3, 2))
    scores = net.unary("Softmax", net.unary("Mul", net.add("MatMul", (1, 2, 5, 5), [q, k]), constants={1: ()}), axis=-1)
    groups = net.groups(net.linear(merged(net, net.add("MatMul", (1, 2, 5, 3), [scores, v]), 2, 3), 2, "o"))
    assert groups[0].size == 2 and groups[0].blocked is None
    assert members(groups[0]) == {
        ("q|weight", 0): ("output", (0, 0, 0, 1, 1, 1)),
        ("k|weight", 0): ("output", (0, 0, 0, 1, 1, 1)),
        ("v|weight", 0): ("output", (0, 0, 0, 1, 1, 1)),
        ("o|weight", 1): ("input", (0, 0, 0, 1, 1, 1)),
    }


@pytest.mark.parametrize("repeated", [False, True])
def test_a_key_value_head_goes_with_its_query_heads(repeated: bool) -> None:
    net = Net(ROWS)
    q, k, v = attention(net, 4, 2, 2)
    if repeated:  # as transformers does it

        def twice(x: tuple[str, int]) -> tuple[str, int]:
            x = net.add("Slice", (1, 2, 1, 5, 2), [x], index=(slice(None), slice(None), None))
            return net.add("Reshape", (1, 4, 5, 2), [net.add("Expand", (1, 2, 2, 5, 2), [x])])

        k, v = twice(k), twice(v)
    x = net.add("Attention", (1, 4, 5, 2), [q, k, v])
    group = net.groups(net.linear(merged(net, x, 4, 2), 2, "o"))[0]
    assert members(group) == {
        ("q|weight", 0): ("output", (0, 0, 0, 0, 1, 1, 1, 1)),
        ("k|weight", 0): ("output", (0, 0, 1, 1)),
        ("v|weight", 0): ("output", (0, 0, 1, 1)),
        ("o|weight", 1): ("input", (0, 0, 0, 0, 1, 1, 1, 1)),
    }


def test_one_key_value_head_for_all_cannot_be_taken_apart() -> None:
    net = Net(ROWS)
    x = net.add("Attention", (1, 4, 5, 2), list(attention(net, 4, 1, 2)))
    group = net.groups(net.linear(merged(net, x, 4, 2), 2, "o"))[0]
    assert (group.size, group.blocked) == (1, "all of its channels would have to go at once")


def test_rotary_embeddings_keep_the_channels_of_a_head() -> None:
    net = Net(ROWS, (1, 1, 5, 2))
    q, k, v = attention(net, 2, 2, 2)
    q, k = (net.add("Mul", (1, 2, 5, 2), [x, net.inputs[1]]) for x in (q, k))
    group = net.groups(net.linear(merged(net, net.add("Attention", (1, 2, 5, 2), [q, k, v]), 2, 2), 2, "o"))[0]
    assert (group.size, group.blocked) == (2, None)


def test_an_einsum_of_heads() -> None:
    net = Net(ROWS)

    def projected(name: str) -> tuple[str, int]:
        kernel, bias = Parameter("weight", f"{name}.kernel", (8, 2, 3), 2, 1), Parameter("bias", f"{name}.bias", (2, 3), 0, 2)
        return net.add("MatMul", (1, 5, 2, 3), net.inputs, (kernel, bias), name, equation="abc,cde->abde")

    q, k, v = (projected(name) for name in "qkv")
    scores = net.unary("Softmax", net.add("MatMul", (1, 2, 5, 5), [q, k], equation="abcd,aecd->acbe"), axis=-1)
    x = net.add("MatMul", (1, 5, 2, 3), [scores, v], equation="acbe,aecd->abcd")
    out = Parameter("weight", "o.weight", (2, 3, 8), 2, 1)
    group = net.groups(net.add("MatMul", (1, 5, 8), [x], (out,), "o", equation="abcd,cde->abe"))[0]
    assert members(group)["q|weight", 1] == ("output", (0, 1))
    assert members(group)["q|bias", 0] == ("follower", (0, 1))
    assert members(group)["o|weight", 0] == ("input", (0, 1))


def shuffled(net: Net, x: tuple[str, int], groups: int) -> tuple[str, int]:
    n, c, *rest = net.shapes[x]
    x = net.add("Reshape", (n, groups, c // groups, *rest), [x])
    x = net.add("Transpose", (n, c // groups, groups, *rest), [x], perm=(0, 2, 1, 3, 4))
    return net.add("Reshape", (n, c, *rest), [x])


def test_a_shuffle_takes_the_same_channels_out_of_each_group() -> None:
    net = Net(IMAGE)
    group = net.groups(net.conv(shuffled(net, net.conv(*net.inputs, 6, "a"), 2), 2, "last"))[0]
    assert group.size == 3 and group.blocked is None
    assert members(group) == {
        ("a|weight", 0): ("output", (0, 1, 2, 0, 1, 2)),
        ("last|weight", 1): ("input", (0, 0, 1, 1, 2, 2)),
    }


def test_sizes_of_a_split() -> None:
    net = Net(IMAGE)
    shapes: list[Shape] = [(1, 2, 8, 8), (1, 4, 8, 8)]
    a, b = net.add("Split", shapes, [net.conv(*net.inputs, 6, "a")], axis=1, split=(2, 4))
    groups = net.groups(net.conv(a, 2, "first"), net.conv(b, 2, "second"))
    assert [(group.name, group.size, group.blocked) for group in groups[:2]] == [("a", 2, None), ("a#2", 4, None)]
    assert members(groups[0])["a|weight", 0] == ("output", (0, 1, -1, -1, -1, -1))
    assert members(groups[1]) == {
        ("a|weight", 0): ("output", (-1, -1, 0, 1, 2, 3)),
        ("second|weight", 1): ("input", (0, 1, 2, 3)),
    }


def test_halves_lose_the_same() -> None:
    net = Net(IMAGE)
    shapes: list[Shape] = [(1, 3, 8, 8)] * 2
    a, b = net.add("Split", shapes, [net.conv(*net.inputs, 6, "a")], axis=1, split=(3, 3), num_outputs=2)
    group = net.groups(net.conv(a, 2, "first"), net.conv(b, 2, "second"))[0]
    assert members(group)["a|weight", 0] == ("output", (0, 1, 2, 0, 1, 2))


def test_squeeze_and_excite() -> None:
    net = Net(IMAGE)
    x = net.conv(*net.inputs, 4, "a")
    squeezed = net.conv(net.add("ReduceMean", (1, 4, 1, 1), [x], axes=(2, 3), keepdims=1), 2, "reduce")
    gate = net.unary("Sigmoid", net.conv(net.unary("Relu", squeezed), 4, "expand"))
    groups = by_name(net.groups(net.conv(net.add("Mul", (1, 4, 8, 8), [x, gate]), 2, "last")))
    assert members(groups["a"]) == {
        ("a|weight", 0): ("output", (0, 1, 2, 3)),
        ("reduce|weight", 1): ("input", (0, 1, 2, 3)),
        ("expand|weight", 0): ("output", (0, 1, 2, 3)),
        ("last|weight", 1): ("input", (0, 1, 2, 3)),
    }
    assert (groups["reduce"].size, groups["reduce"].blocked) == (2, None)


def test_spatial_attention_is_no_coupling() -> None:
    net = Net(IMAGE)
    x, gate = net.conv(*net.inputs, 4, "a"), net.unary("Sigmoid", net.conv(*net.inputs, 1, "gate"))
    groups = by_name(net.groups(net.conv(net.add("Mul", (1, 4, 8, 8), [x, gate]), 2, "last")))
    assert (groups["a"].size, groups["a"].blocked) == (4, None)
    assert (groups["gate"].size, groups["gate"].blocked) == (1, "all of its channels would have to go at once")


def test_a_scale_and_a_shift_go_along() -> None:
    net = Net(IMAGE)
    x = net.conv(*net.inputs, 4, "a")
    x = net.add("Mul", net.shapes[x], [x], (Parameter("weight", "scale", (4, 1, 1), None, 1),), "scaled")
    x = net.add("Add", net.shapes[x], [x], (Parameter("bias", "position", (1, 4, 8, 8), None, 1),), "shifted")
    group = net.groups(net.conv(x, 2, "last"))[0]
    assert members(group)["scaled|weight", 0] == ("follower", (0, 1, 2, 3))
    assert members(group)["shifted|bias", 1] == ("follower", (0, 1, 2, 3))


BLOCKING: dict[str, tuple[str, dict[str, Any]]] = {
    "LayerNormalization layernormalization0 normalises over them": ("LayerNormalization", {"axis": 1}),
    "Softmax softmax0 normalises over them": ("Softmax", {"axis": 1}),
    "CumSum cumsum0 counts them": ("CumSum", {"axis": 1}),
    "NonZero nonzero0 may use them in any way": ("NonZero", {}),
    "Sigmoid sigmoid0 does not make zeros of zeros": ("Sigmoid", {}),
    "Clip clip0 does not make zeros of zeros": ("Clip", {"min": 0.5}),
    "Add add0 does not make zeros of zeros": ("Add", {"constants": {1: ()}}),
    "Mul mul0 meets values that stay": ("Mul", {"constants": {1: (4, 1, 1)}}),
    "Transpose transpose0 may use them in any way": ("Transpose", {}),  # it states no `perm`
}


@pytest.mark.parametrize("reason", BLOCKING)
def test_what_blocks(reason: str) -> None:
    op, attrs = BLOCKING[reason]
    net = Net(IMAGE)
    group = net.groups(net.conv(net.unary(op, net.conv(*net.inputs, 4, "a"), **attrs), 2, "last"))[0]
    assert group.size == 4
    assert (group.blocked or "").startswith(reason)


@pytest.mark.parametrize(
    ("op", "blocked"), [("ReduceMean", True), ("ReduceMax", True), ("ReduceSum", False), ("ReduceL2", False)]
)
def test_reductions_over_channels(op: str, blocked: bool) -> None:
    net = Net(IMAGE)
    x = net.add(op, (1, 1, 8, 8), [net.conv(*net.inputs, 4, "a")], axes=(1,), keepdims=1)
    assert (net.groups(net.conv(x, 2, "last"))[0].blocked is not None) is blocked


def test_whole_groups_of_a_group_norm() -> None:
    net = Net(IMAGE)
    x = net.norm(net.conv(*net.inputs, 6, "a"), "GroupNormalization", (6,), "norm", num_groups=3)
    group = net.groups(net.conv(x, 2, "last"))[0]
    assert group.blocked is None
    assert members(group)["norm|weight", 0] == ("follower", (0, 0, 1, 1, 2, 2))


def test_what_meets_the_input_of_the_model_stays() -> None:
    net = Net(IMAGE)
    a = net.conv(*net.inputs, 3, "a")
    group = net.groups(net.conv(net.add("Add", IMAGE, [a, *net.inputs]), 2, "last"))[0]
    assert group.blocked == "Add add0 meets values that stay"


def test_padded_channels_block_only_what_they_meet() -> None:
    net = Net(IMAGE)
    a, b = net.conv(*net.inputs, 2, "a"), net.conv(*net.inputs, 3, "b")
    x = net.add("Add", (1, 3, 8, 8), [net.add("Pad", (1, 3, 8, 8), [a], pads=(0, 0, 0, 0, 0, 1, 0, 0)), b])
    groups = net.groups(net.conv(x, 2, "last"))
    assert [(group.name, group.size) for group in groups if group.blocked is None] == [("a", 2)]
    assert members(groups[0])["b|weight", 0] == ("output", (0, 1, -1))


def test_what_the_outputs_do_not_depend_on_blocks_nothing() -> None:
    net = Net(IMAGE)
    x = net.conv(*net.inputs, 4, "a")
    net.add("NonZero", (1, 4, 8, 8), [x])
    assert net.groups(net.conv(x, 2, "last"))[0].blocked is None


def test_a_batch_of_unknown_size() -> None:
    net = Net((-1, 8))
    x = net.add("Reshape", (-1, 3, 2), [net.linear(*net.inputs, 6, "a")])
    x = net.add("Reshape", (-1, 6), [net.unary("Softmax", x, axis=2)])  # unordered pairs: whole ones can go
    groups = net.groups(net.linear(net.add("Mul", (-1, 6), [x, net.linear(*net.inputs, 6, "b")]), 2, "last"))
    assert (groups[0].size, groups[0].blocked) == (3, None)
    assert members(groups[0])["last|weight", 1] == ("input", (0, 0, 1, 1, 2, 2))


@given(st.data())
def test_reshape_is_numpys(data: st.DataObject) -> None:
    """Written out only where units vary, and the same as numpy's reshape of what it stands for."""
    factors = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6))

    def shape() -> Shape:
        cuts = sorted(data.draw(st.sets(st.integers(1, len(factors)), max_size=len(factors))) | {len(factors)})
        return tuple(int(np.prod(factors[a:b])) for a, b in zip([0, *cuts], cuts, strict=False))

    old, new = shape(), shape()
    ids = np.arange(1000)[: int(np.prod(old))].reshape(old)
    for axis in data.draw(st.sets(st.integers(0, len(old) - 1))):
        ids = ids.take([0], axis=axis)
    expected = np.broadcast_to(ids, old).reshape(new)
    assert np.array_equal(np.broadcast_to(_reshaped(ids, old, new), new), expected)


def test_the_same_every_time() -> None:
    def groups() -> tuple[ChannelGroup, ...]:
        net = Net(ROWS)
        x = net.add("Attention", (1, 4, 5, 2), list(attention(net, 4, 2, 2)))
        return net.groups(net.linear(merged(net, x, 4, 2), 2, "o"))

    assert groups() == groups()


def test_what_removals_leave_of_activations() -> None:
    """a makes 6 channels; the last 4 of them are split off, reshaped to two groups and back, and joined with the first 2."""
    net = Net(IMAGE)
    x = net.conv(*net.inputs, 6, "a")
    first, last = net.add("Split", [(1, 2, 8, 8), (1, 4, 8, 8)], [x], name="split", axis=1, split=(2, 4))
    last = net.add("Reshape", (1, 2, 2, 64), [last], name="reshape")
    last = net.add("Reshape", (1, 4, 8, 8), [last], name="back")
    net.conv(net.add("Concat", (1, 6, 8, 8), [last, first], name="concat", axis=1), 3, "b")
    net.add("Output", [], [("b", 0)])
    graph = Graph(tuple(net.nodes), tuple(net.edges))
    removals = [Removal(Site("a", "weight"), 0, (1, 2, 3)), Removal(Site("b", "weight"), 1, (0, 1, 5))]
    left = {place: (axis, indices.tolist()) for place, (axis, indices) in channels_left(graph, removals).items()}
    assert left == {
        ("a", 0): (1, [1, 2, 3]),
        ("split", 0): (1, [1]),
        ("split", 1): (1, [0, 1]),
        ("reshape", 0): (1, [0]),
        ("back", 0): (1, [0, 1]),
        ("concat", 0): (1, [0, 1, 5]),
    }
    assert channels_left(graph, []) == {}


# Recurrent layers ---------------------------------------------------------------------------------------------------------------


def recurrent(net: Net, x: tuple[str, int], op: str, gates: int, size: int, name: str, directions: int = 1, **more: Any) -> Any:
    """As torch has it: the sequence, (batch, length, channels), and the last states, (direction, batch, channels)."""
    *lead, inputs = net.shapes[x]
    parameters: list[Parameter] = []
    stacks = []
    for direction in ("", "_back")[:directions]:
        own = (
            Parameter(f"W{direction}", f"{name}.W{direction}", (gates * size, inputs), 0, 1, input_axis=1),
            Parameter(f"R{direction}", f"{name}.R{direction}", (gates * size, size), 0, 2, input_axis=1),
            Parameter(f"B{direction}", f"{name}.B{direction}", (gates * size,), 0, 3),
        )
        parameters += own
        stacks.append((tuple(parameter.slot for parameter in own),))
    ends = tuple((cell, 0) for cell in range(directions))
    attrs = {"directions": tuple(stacks), "results": {0: (-1, ends), 1: (0, ends)}, "states": {5: (0, ends)}, **more}
    first = attrs.pop("first", None)
    shapes = [(*lead, directions * size), (directions, lead[0], size)]
    return net.add(op, shapes, {0: x} | ({} if first is None else {5: first}), tuple(parameters), name, **attrs)


def test_a_hidden_unit_is_a_row_of_each_gate_and_a_column_of_the_recurrence() -> None:
    """Two units of an LSTM: unit 1 is rows 1, 3, 5 and 7."""
    net = Net((1, 4, 3))
    zeros = net.add("ConstantOfShape", (1, 1, 2), [], value=0)
    y, _ = recurrent(net, *net.inputs, "LSTM", 4, 2, "lstm", first=zeros)
    groups = by_name(net.groups(net.linear(y, 2, "fc")))
    assert (groups["lstm"].size, groups["lstm"].blocked) == (2, None)
    assert members(groups["lstm"]) == {
        ("lstm|W", 0): ("output", (0, 1) * 4),
        ("lstm|R", 0): ("output", (0, 1) * 4),
        ("lstm|R", 1): ("input", (0, 1)),
        ("lstm|B", 0): ("follower", (0, 1) * 4),
        ("fc|weight", 1): ("input", (0, 1)),
    }


def test_two_directions_have_as_many_units_and_put_them_side_by_side() -> None:
    net = Net((1, 4, 3))
    y, _ = recurrent(net, *net.inputs, "GRU", 3, 2, "gru", directions=2)
    found = members(by_name(net.groups(net.linear(y, 2, "fc")))["gru"])
    assert found["gru|W", 0] == found["gru|R_back", 0] == ("output", (0, 1) * 3)
    assert found["fc|weight", 1] == ("input", (0, 1, 0, 1))


def test_layers_that_begin_with_one_tensor_of_zeros_have_as_many_units() -> None:
    """Its slices are the first states of both; without it, each has units of its own."""
    for shared in (True, False):
        net = Net((1, 4, 3))
        zeros = net.add("ConstantOfShape", (2, 1, 2), [], value=0)
        first = [net.add("Slice", (1, 1, 2), [zeros], index=(slice(i, i + 1),)) if shared else None for i in range(2)]
        x, _ = recurrent(net, *net.inputs, "RNN", 1, 2, "a", first=first[0])
        x, _ = recurrent(net, x, "RNN", 1, 2, "b", first=first[1])
        groups = by_name(net.groups(net.linear(x, 2, "fc")))
        assert ("b" not in groups) == shared
        assert members(groups["a"])["b|W", 1] == ("input", (0, 1))
        assert (("b|W", 0) in members(groups["a"])) == shared


def test_the_units_of_an_encoder_are_those_of_the_decoder_that_begins_with_its_states() -> None:
    net = Net((1, 4, 3), (1, 5, 3))
    _, last = recurrent(net, net.inputs[0], "RNN", 1, 2, "encoder")
    y, _ = recurrent(net, net.inputs[1], "RNN", 1, 2, "decoder", first=last)
    found = members(by_name(net.groups(net.linear(y, 2, "fc")))["encoder"])
    assert found["decoder|R", 1] == ("input", (0, 1)) and found["decoder|W", 0] == ("output", (0, 1))


@pytest.mark.parametrize(
    ("first", "more", "reason"),
    [
        ("Input", {}, "begins with a state that has a fixed number of channels"),
        ("ConstantOfShape", {"value": 1}, "begins with a state that has a fixed number of channels"),
        ("Sigmoid", {}, "does not make zeros of zeros"),
        (None, {"stateful": True}, "keeps its states from batch to batch"),
        (None, {"never_zero": True}, "does not make zeros of zeros"),
    ],
)
def test_units_that_would_not_stay_zero_stay(first: str | None, more: dict[str, Any], reason: str) -> None:
    net = Net((1, 4, 3), (1, 1, 2))
    state = None
    if first == "Input":
        state = net.inputs[1]
    elif first == "ConstantOfShape":
        state = net.add(first, (1, 1, 2), [], **more)
    elif first == "Sigmoid":
        state = net.unary(first, net.linear(net.inputs[1], 2, "start"))
    y, _ = recurrent(net, net.inputs[0], "LSTM", 4, 2, "lstm", first=state, **({} if "value" in more else more))
    blocked = [group.blocked for group in net.groups(net.linear(y, 2, "fc")) if any("lstm" in str(m.site) for m in group.members)]
    assert blocked and all(reason in (why or "") for why in blocked)


def test_a_projected_lstm_has_units_in_its_memory_and_others_in_its_output() -> None:
    net = Net((1, 4, 3))
    own = (
        Parameter("W", "W", (8, 3), 0, 1, input_axis=1),
        Parameter("R", "R", (8, 3), 0, 2, input_axis=1),
        Parameter("P", "P", (3, 2), 0, 2, input_axis=1),
    )
    attrs = {"directions": ((("W", "R", "P"),),), "results": {0: (-1, ((0, 0),))}}
    y = net.add("LSTM", (1, 4, 3), net.inputs, own, "lstm", **attrs)
    groups = by_name(net.groups(net.linear(y, 2, "fc")))
    assert members(groups["lstm"]) == {
        ("lstm|W", 0): ("output", (0, 1) * 4),
        ("lstm|R", 0): ("output", (0, 1) * 4),
        ("lstm|P", 1): ("input", (0, 1)),
    }
    assert members(groups["lstm#2"]) == {
        ("lstm|P", 0): ("output", (0, 1, 2)),
        ("lstm|R", 1): ("input", (0, 1, 2)),
        ("fc|weight", 1): ("input", (0, 1, 2)),
    }
