"""Operations and parameters of a graph, worked out by hand, in both frameworks' layouts."""

from dataclasses import replace

import pytest

from nncf_ext.channels.costs import Cost, CostModel
from nncf_ext.graph import INPUT, OUTPUT, Edge, Graph, Node, Parameter


def chain(first, *nodes_and_shapes):
    """A graph of nodes one after the other, each with the shape of its output."""
    nodes, edges = [Node("in", INPUT)], []
    shape = first
    for node, out in (*nodes_and_shapes, (Node("out", OUTPUT), ())):
        edges.append(Edge(nodes[-1].name, node.name, shape=shape))
        nodes.append(node)
        shape = out
    return Graph(tuple(nodes), tuple(edges))


def conv(name, weight, channel_axis, bias=None, **attrs):
    parameters = [Parameter("weight", f"{name}.w", weight, channel_axis)]
    parameters += [Parameter("bias", f"{name}.b", (bias,), 0)] if bias else []
    return Node(name, "Conv", name, tuple(parameters), attrs)


def dense(name, weight, channel_axis, op="Gemm", **attrs):
    return Node(name, op, name, (Parameter("weight", f"{name}.w", weight, channel_axis),), attrs)


TORCH = chain(
    (2, 3, 8, 8),
    (conv("a", (16, 3, 3, 3), 0, 16, groups=1), (2, 16, 8, 8)),
    (conv("d", (16, 1, 3, 3), 0, groups=16, depthwise=True), (2, 16, 4, 4)),
    (dense("f", (10, 256), 0, transB=1), (2, 10)),
)
KERAS = chain(
    (-1, 8, 8, 3),
    (conv("a", (3, 3, 3, 16), 3, 16, groups=1, data_format="channels_last"), (-1, 8, 8, 16)),
    (conv("d", (3, 3, 16, 1), 2, groups=16, depthwise=True, data_format="channels_last"), (-1, 4, 4, 16)),
    (dense("f", (256, 10), 1), (-1, 10)),
)


@pytest.mark.parametrize("graph", [TORCH, KERAS], ids=["torch", "keras"])
def test_convolution_depthwise_and_dense(graph):
    """2*9*3*16*64 + 2*9*16*16 + 2*256*10 for one sample, whatever the batch; 432+16 + 144 + 2560 parameters."""
    model = CostModel(graph)
    assert model.cost({}) == Cost(55296 + 4608 + 5120, 448 + 144 + 2560)
    assert model.unknown_sizes == ()


def test_without_channels():
    """Four filters of `a` gone: 12 are left in its kernel, its bias, the depthwise kernel, and 12*16 columns of `f`."""
    gone = {("a.w", 0): 4, ("a.b", 0): 4, ("d.w", 0): 4, ("f.w", 1): 64}
    cost = CostModel(TORCH).cost(gone)
    assert cost == Cost(2 * 9 * 3 * 12 * 64 + 2 * 9 * 12 * 16 + 2 * 192 * 10, 324 + 12 + 108 + 1920)


def test_a_shared_weight_works_twice_and_is_stored_once():
    layer = dense("f", (4, 4), 0)
    graph = chain((1, 4), (layer, (1, 4)), (replace(layer, name="again"), (1, 4)))
    assert CostModel(graph).cost({}) == Cost(2 * (2 * 16), 16)


def test_statistics_are_no_parameters_and_a_lookup_costs_nothing():
    slots = ("weight", "bias", "mean", "variance")
    norm = Node("n", "BatchNormalization", "n", tuple(Parameter(slot, f"n.{slot}", (4,), 0) for slot in slots))
    table = Node("t", "Gather", "t", (Parameter("weight", "t.w", (100, 4), 1),))
    assert CostModel(chain((1, 5), (table, (1, 5, 4)), (norm, (1, 5, 4)))).cost({}) == Cost(0, 408)


def test_matrix_products():
    """A token-wise product counts its tokens; an einsum's kernel axes that reach the output are not summed over."""
    assert CostModel(chain((2, 7, 4), (dense("f", (6, 4), 0, "MatMul"), (2, 7, 6)))).cost({}).flops == 2 * 24 * 7
    heads = dense("q", (4, 2, 3), 2, "MatMul", equation="abc,cde->abde")
    assert CostModel(chain((-1, 7, 4), (heads, (-1, 7, 2, 3)))).cost({}).flops == 2 * 24 * 7
    left = dense("l", (6, 4), 0, "MatMul")  # W @ x
    assert CostModel(chain((1, 4, 9), (left, (1, 6, 9)))).cost({}).flops == 2 * 24 * 9


def test_transposed_convolution_works_at_the_positions_of_its_input():
    up = Node("u", "ConvTranspose", "u", (Parameter("weight", "u.w", (4, 2, 3, 3), 1),))
    assert CostModel(chain((1, 4, 5, 5), (up, (1, 2, 10, 10)))).cost({}).flops == 2 * 72 * 25


def test_unknown_sizes_are_named():
    open_ended = chain((-1, -1, -1, 3), (conv("a", (3, 3, 3, 16), 3, data_format="channels_last"), (-1, -1, -1, 16)))
    assert CostModel(open_ended).unknown_sizes == ("a",)
    assert CostModel(open_ended).cost({}).flops == 2 * 432
