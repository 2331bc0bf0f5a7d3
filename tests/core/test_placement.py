"""Placement on small graphs whose right answer can be read off the drawing. Real models: tests/torch/test_torch_placement.py."""

import logging

import pytest

from nncf_ext.graph import Edge, Graph, Node, Parameter, Site
from nncf_ext.quantization.placement import Constraints, Placement, QuantizerSpec, model_type_of, place

IMAGE = (1, 8, 6, 6)


def conv(name: str, weight: str = "", **attrs: object) -> Node:
    return Node(name, "Conv", parameters=(Parameter("weight", weight or f"{name}.weight", (8, 8, 3, 3), 0, 1),), attrs=attrs)


def gemm(name: str, weight: str = "") -> Node:
    return Node(name, "Gemm", parameters=(Parameter("weight", weight or f"{name}.weight", (8, 8), 0, 1),))


def network(*nodes: Node, wires: str, shape: tuple[int, ...] = IMAGE, dtypes: dict[str, str] | None = None) -> Graph:
    """`wires`: "a>b a>c:1" means a's output goes to port 0 of b and to port 1 of c; "a.1>b": a's second output."""
    edges = []
    for wire in wires.split():
        source, target = wire.split(">")
        (source, _, out), (target, _, port) = source.partition("."), target.partition(":")
        edges.append(Edge(source, target, int(out or 0), int(port or 0), shape, (dtypes or {}).get(source, "float32")))
    return Graph(nodes, tuple(edges))


def residual_block() -> Graph:
    return network(
        Node("x", "Input"),
        conv("stem"),
        Node("bn1", "BatchNormalization"),
        Node("relu1", "Relu"),
        conv("body"),
        Node("bn2", "BatchNormalization"),
        Node("add", "Add"),
        Node("relu2", "Relu"),
        Node("pool", "GlobalAveragePool"),
        Node("flatten", "Flatten"),
        gemm("head"),
        Node("y", "Output"),
        wires="x>stem stem>bn1 bn1>relu1 relu1>body body>bn2 bn2>add relu1>add:1 add>relu2 "
        "relu2>pool pool>flatten flatten>head head>y",
    )


def attention(product: Node) -> Graph:
    return network(
        Node("x", "Input"),
        gemm("query"),
        gemm("key"),
        gemm("value"),
        Node("scores", "MatMul"),
        Node("softmax", "Softmax"),
        Node("dropout", "Dropout"),
        product,
        Node("residual", "Add"),
        Node("norm", "LayerNormalization"),
        gemm("out"),
        Node("y", "Output"),
        wires="x>query x>key x>value query>scores key>scores:1 scores>softmax softmax>dropout dropout>context value>context:1 "
        "context>residual x>residual:1 residual>norm norm>out out>y",
        shape=(1, 8, 8),
    )


def sites(placements: tuple[Placement, ...]) -> list[str]:
    return ["=".join(str(site) for site in placement.sites) for placement in placements]


def spec_at(placements: tuple[Placement, ...], site: str) -> QuantizerSpec:
    return next(placement.spec for placement in placements if Site.parse(site) in placement.sites)


def test_residual_block_is_quantized_around_the_fused_operators() -> None:
    # Conv+BatchNorm+Relu and Add+Relu run as one kernel each: no quantizer inside them. relu1 feeds two operators: one quantizer.
    assert sites(place(residual_block())) == [
        "x|output",
        "stem|weight",
        "relu1|output",
        "body|weight",
        "bn2|output",
        "relu2|output",
        "pool|output",
        "head|weight",
    ]


def test_default_specs() -> None:
    placements = place(residual_block())
    assert spec_at(placements, "stem|weight") == QuantizerSpec(8, "symmetric", signed=True, per_channel=True)
    assert spec_at(placements, "relu1|output") == QuantizerSpec(8, "symmetric", signed=None, per_channel=False)


def test_mixed_preset_has_asymmetric_activations() -> None:
    placements = place(residual_block(), preset="mixed")
    assert spec_at(placements, "stem|weight").mode == "symmetric"
    assert spec_at(placements, "relu1|output").mode == "asymmetric"


def test_constraints_decide_how_not_where() -> None:
    placements = place(
        residual_block(),
        weights=Constraints(mode="asymmetric", bits=4, per_channel=False),
        activations=Constraints(mode="asymmetric", bits=6, signed=True, per_channel=True),
    )
    assert sites(placements) == sites(place(residual_block()))
    assert spec_at(placements, "body|weight") == QuantizerSpec(4, "asymmetric", signed=None, per_channel=False)
    assert spec_at(placements, "relu1|output") == QuantizerSpec(6, "asymmetric", signed=True, per_channel=True)


@pytest.mark.parametrize("device", ["CPU", "GPU", "NPU"])
def test_devices_with_a_table_agree_on_a_convolutional_network(device: str) -> None:
    assert place(residual_block(), target_device=device) == place(residual_block())


def test_sapphire_rapids_leaves_the_sum_that_a_convolution_absorbs_in_floating_point() -> None:
    assert set(sites(place(residual_block()))) - set(sites(place(residual_block(), target_device="CPU_SPR"))) == {"bn2|output"}


def test_trial_device_is_symmetric_and_per_tensor_until_asked_otherwise() -> None:
    spec = spec_at(place(residual_block(), target_device="TRIAL"), "stem|weight")
    assert (spec.bits, spec.mode, spec.per_channel) == (8, "symmetric", False)
    asked = Constraints(bits=2, per_channel=True, signed=True)
    assert spec_at(place(residual_block(), target_device="TRIAL", weights=asked), "stem|weight") == QuantizerSpec(
        2, "symmetric", signed=True, per_channel=True
    )


def test_inputs_and_outputs_of_the_model() -> None:
    placed = sites(place(residual_block(), quantize_inputs=False, quantize_outputs=True))
    assert "x|output" not in placed
    assert "head|output" in placed


def test_ignored_nodes_keep_floating_point_weights_and_inputs() -> None:
    placed = sites(place(residual_block(), ignored=["body"]))
    assert "body|weight" not in placed
    assert "relu1|output" not in placed, "body reads it in floating point; only the Add needs it quantized"
    assert "add|input:1" in placed


def test_only_the_weight_or_only_the_inputs_of_a_node_can_be_ignored() -> None:
    everything = sites(place(residual_block()))
    assert sites(place(residual_block(), ignored_weights=["body"])) == [site for site in everything if site != "body|weight"]
    placed = sites(place(residual_block(), ignored_activations=["body"]))
    assert "body|weight" in placed
    assert "relu1|output" not in placed and "add|input:1" in placed


def test_depthwise_convolution_is_quantized_per_tensor_unless_asked() -> None:
    graph = network(
        Node("x", "Input"), conv("depthwise", depthwise=True, group=8), Node("y", "Output"), wires="x>depthwise depthwise>y"
    )
    assert not spec_at(place(graph), "x|output").per_channel
    assert spec_at(place(graph, activations=Constraints(per_channel=True)), "x|output").per_channel


def test_inputs_of_a_concat_share_one_scale() -> None:
    graph = network(
        Node("x", "Input"),
        conv("left"),
        conv("right"),
        Node("concat", "Concat"),
        conv("head"),
        Node("y", "Output"),
        wires="x>left x>right left>concat right>concat:1 concat>head head>y",
    )
    assert sites(place(graph)) == ["x|output", "left|output=right|output", "left|weight", "right|weight", "head|weight"]


def test_a_weight_that_two_nodes_use_has_one_quantizer() -> None:
    graph = network(Node("x", "Input"), conv("a", "shared"), conv("b", "shared"), Node("y", "Output"), wires="x>a a>b b>y")
    assert "a|weight=b|weight" in sites(place(graph))


def test_one_tensor_on_two_ports() -> None:
    graph = network(
        Node("x", "Input"),
        conv("a"),
        Node("square", "Mul"),
        conv("b"),
        Node("y", "Output"),
        wires="x>a a>square a>square:1 square>b b>y",
    )
    # NNCF quantizes an element-wise operator for the sake of its two different inputs; here there is one.
    assert sites(place(graph)) == ["x|output", "a|weight", "square|output", "b|weight"]


def test_outputs_of_a_node_with_several_are_quantized_where_they_arrive() -> None:
    graph = network(
        Node("x", "Input"),
        Node("gate", "Mystery"),
        conv("a"),
        conv("b"),
        Node("add", "Add"),
        Node("y", "Output"),
        wires="x>gate gate.0>a gate.1>b a>add b>add:1 add>y",
    )
    assert {"a|input:0", "b|input:0"} <= set(sites(place(graph)))


def test_embedding_weights_are_quantized_and_integer_inputs_are_not() -> None:
    table = Node("table", "Gather", parameters=(Parameter("weight", "table.weight", (100, 8), 1, 0),))
    graph = network(
        Node("tokens", "Input"),
        table,
        gemm("head"),
        Node("y", "Output"),
        wires="tokens>table:1 table>head head>y",
        dtypes={"tokens": "int64"},
    )
    assert sites(place(graph)) == ["table|weight", "head|weight"]


def test_unknown_operators_are_left_alone() -> None:
    graph = network(
        Node("x", "Input"), Node("odd", "torch.fft.rfft"), gemm("head"), Node("y", "Output"), wires="x>odd odd>head head>y"
    )
    assert sites(place(graph)) == ["odd|output", "head|weight"]


def test_graph_without_anything_to_quantize() -> None:
    assert place(network(Node("x", "Input"), Node("tanh", "Tanh"), Node("y", "Output"), wires="x>tanh tanh>y")) == ()


@pytest.mark.parametrize("product", [Node("context", "MatMul"), Node("context", "Attention")], ids=["softmax-matmul", "fused"])
def test_attention_makes_a_transformer(product: Node) -> None:
    graph = attention(product)
    assert model_type_of(graph) == "transformer"
    placed = sites(place(graph, model_type="transformer"))
    assert "norm|output" in placed
    assert not {"residual|input:0", "residual|input:1", "context|output"} & set(placed), (
        "residual additions stay in floating point"
    )


def test_einsum_hides_no_attention_from_nncf() -> None:
    plain = sites(place(attention(Node("context", "MatMul")), model_type="transformer"))
    einsum = sites(place(attention(Node("context", "MatMul", attrs={"subscripts": "qk,kv->qv"})), model_type="transformer"))
    assert set(plain) - set(einsum) == {"softmax|output", "value|output"}


def test_a_softmax_classifier_is_no_transformer() -> None:
    graph = network(
        Node("x", "Input"),
        gemm("head"),
        Node("softmax", "Softmax"),
        gemm("after"),
        Node("y", "Output"),
        wires="x>head head>softmax softmax>after after>y",
    )
    assert model_type_of(graph) is None
    assert model_type_of(residual_block()) is None


def test_nothing_is_printed_and_logging_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    logging.disable(logging.DEBUG)
    try:
        place(residual_block())
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)
    assert capfd.readouterr() == ("", "")


def test_what_must_not_become_zero_is_not_rounded() -> None:
    """Linear attention: a sum of products plus an epsilon divides another one. The convolution behind reads integers again."""
    graph = network(
        Node("x", "Input"),
        conv("a"),
        conv("b"),
        Node("sum", "Add"),
        Node("epsilon", "Add"),
        Node("ratio", "Div"),
        conv("c"),
        Node("log", "Log"),
        Node("y", "Output"),
        wires="x>a x>b a>sum b>sum:1 sum>epsilon a>ratio epsilon>ratio:1 ratio>c c>log log>y",
    )
    found = sites(place(graph))
    assert not [site for site in found if site.startswith(("epsilon|", "c|output", "log|"))]
    assert {"a|weight", "b|weight", "c|weight", "ratio|output"} <= set(found)


def test_the_root_of_a_sum_of_squares_divides_too() -> None:
    graph = network(
        Node("x", "Input"),
        conv("a"),
        Node("epsilon", "Add"),
        Node("rsqrt", "Pow", attrs={"exponent": -0.5}),
        Node("scaled", "Mul"),
        Node("y", "Output"),
        wires="x>a a>epsilon epsilon>rsqrt a>scaled rsqrt>scaled:1 scaled>y",
    )
    assert not [site for site in sites(place(graph)) if site.startswith("epsilon|")]
