"""Placement over traced Keras models: the same places that the same architectures have in torch (test_torch_placement.py)."""

from __future__ import annotations

from collections import Counter

import keras
from nncf_ext_tensorflow.trace import trace

from nncf_ext.graph import Graph
from nncf_ext.quantization.placement import Placement, model_type_of, place


def kinds(graph: Graph, placements: tuple[Placement, ...]) -> Counter[tuple[str, str]]:
    """How many quantizers sit where: (operator type, slot) -> number of sites."""
    return Counter((graph[site.node].op, site.slot) for placement in placements for site in placement.sites)


def site_names(placements: tuple[Placement, ...]) -> list[str]:
    return ["=".join(str(site) for site in placement.sites) for placement in placements]


def test_mobilenet_v2_has_the_places_it_has_in_torch() -> None:
    graph = trace(keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), alpha=0.35, classes=10)).graph
    assert model_type_of(graph) is None
    placements = place(graph)
    assert kinds(graph, placements) == {
        ("Input", "output"): 1,
        ("Conv", "weight"): 52,
        ("Gemm", "weight"): 1,
        ("Clip", "output"): 35,  # ReLU6: the stem, twice in 16 blocks and once in the first, the head
        ("BatchNormalization", "output"): 17,  # end of every block
        ("Add", "output"): 10,
        ("GlobalAveragePool", "output"): 1,
    }
    assert all(placement.spec.per_channel == placement.of_weight for placement in placements)


def test_residual_network_with_fused_activations() -> None:
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = skip = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Add(name="sum")([x, skip])
    x = keras.layers.Activation("relu", name="act")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.2, name="drop")(x)
    graph = trace(keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="head")(x))).graph
    assert site_names(place(graph)) == [
        "/nncf_model_input_0|output",
        "stem|weight",
        "stem/relu|output",
        "conv|weight",
        "norm|output",
        "act|output",
        "pool|output",
        "head|weight",
    ]


def test_inputs_of_a_concatenation_share_one_scale() -> None:
    inputs = keras.Input((8, 8, 3))
    left = keras.layers.Conv2D(4, 3, name="left")(inputs)
    right = keras.layers.Conv2D(4, 3, name="right")(inputs)
    both = keras.layers.Concatenate(name="both")([left, right])
    graph = trace(keras.Model(inputs, keras.layers.Conv2D(2, 1, name="head")(both))).graph
    assert "left|output=right|output" in site_names(place(graph))


def test_attention_keeps_additions_and_softmax_in_floating_point() -> None:
    inputs = keras.Input((6, 16))
    x = keras.layers.MultiHeadAttention(2, 8, name="attention")(inputs, inputs)
    x = keras.layers.LayerNormalization(name="norm")(keras.layers.Add(name="sum")([inputs, x]))
    graph = trace(keras.Model(inputs, keras.layers.Dense(4, name="head")(x))).graph
    assert model_type_of(graph) == "transformer"
    placed = site_names(place(graph, preset="mixed", model_type="transformer"))
    assert {f"attention/{name}|weight" for name in ("query", "key", "value", "attention_output")} <= set(placed)
    assert {"norm|output", "head|weight", "attention/scale|output", "attention/key|output"} <= set(placed)
    assert not {"attention/softmax|output", "attention/value|output"} & set(placed), "softmax(Q K) V stays in floating point"
    assert not any(name.startswith("sum|") for name in placed)


def test_squeeze_and_excitation_gates_stay_in_floating_point() -> None:
    graph = trace(keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=10)).graph
    gates = [node.name for node in graph.nodes if node.op == "Mul" and "squeeze_excite" in node.name]
    placed = {str(site) for placement in place(graph) for site in placement.sites}
    assert len(gates) == 9
    assert not any(f"{gate}|input:1" in placed for gate in gates)
