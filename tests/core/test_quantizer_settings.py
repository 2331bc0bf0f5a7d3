"""What a config asks of single quantizers, on small graphs whose right answer can be read off the drawing."""

from __future__ import annotations

from typing import Any

import pytest

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.algorithms.quantization import Quantization
from nncf_ext.edits import Plan
from nncf_ext.graph import Graph, Node, Site
from nncf_ext.quantization.names import is_of_place, precedence
from nncf_ext.quantization.nncf_rules import allowed
from nncf_ext.quantization.quantizers import NNCFQuantizer
from tests.core.test_placement import conv, gemm, network, residual_block


def quantization(**keys: Any) -> Quantization:
    return NNCFConfig.from_dict({"compression": {"algorithm": "quantization", **keys}}).algorithms()[0]  # type: ignore[return-value]


def plan(graph: Graph, device: str = "ANY", **keys: Any) -> Plan:
    return quantization(**keys).plan(graph, device)


def at(plan: Plan, site: str) -> NNCFQuantizer:
    (edit,) = plan.at(Site.parse(site))
    assert isinstance(edit.transform, NNCFQuantizer)
    return edit.transform


def sites(plan: Plan) -> list[str]:
    return ["=".join(map(str, edit.sites)) for edit in plan]


def fork() -> Graph:
    """relu feeds two convolutions."""
    return network(
        Node("x", "Input"),
        conv("stem"),
        Node("relu", "Relu"),
        conv("left"),
        conv("right"),
        Node("l", "Output"),
        Node("r", "Output"),
        wires="x>stem stem>relu relu>left relu>right left>l right>r",
    )


def two_inputs() -> Graph:
    """Two images added after a convolution of each, and a vector that joins the sum through a gemm."""
    return network(
        Node("x", "Input"),
        Node("y", "Input"),
        conv("cx"),
        conv("cy"),
        Node("add", "Add"),
        conv("head"),
        Node("z", "Output"),
        wires="x>cx y>cy cx>add cy>add:1 add>head head>z",
    )


def joined() -> Graph:
    """Two sums, of which nothing unifies the scales."""
    return network(
        Node("x", "Input"),
        conv("a"),
        conv("b"),
        conv("c"),
        conv("d"),
        Node("sum1", "Add"),
        Node("sum2", "Add"),
        Node("y", "Output"),
        Node("z", "Output"),
        wires="x>a x>b x>c x>d a>sum1 b>sum1:1 c>sum2 d>sum2:1 sum1>y sum2>z",
    )


# Overrides


def test_an_override_changes_its_weight_and_no_other() -> None:
    found = plan(residual_block(), scope_overrides={"weights": {"body": {"bits": 4, "mode": "asymmetric", "per_channel": False}}})
    assert (at(found, "body|weight").bits, at(found, "body|weight").symmetric, at(found, "body|weight").channel_axis) == (
        4,
        False,
        None,
    )
    assert at(found, "stem|weight") == at(plan(residual_block()), "stem|weight")
    assert sites(found) == sites(plan(residual_block()))


def test_seven_of_eight_bits_are_for_eight_bits_only() -> None:
    found = plan(residual_block(), scope_overrides={"weights": {"body": {"bits": 4}}})
    assert [at(found, f"{name}|weight").half for name in ("stem", "body", "head")] == [True, False, True]


def test_an_override_of_activations_is_about_what_the_operator_reads() -> None:
    found = plan(residual_block(), scope_overrides={"activations": {"pool": {"bits": 6}}})
    assert at(found, "relu2|output").bits == 6
    assert {at(found, site).bits for site in ("x|output", "relu1|output", "pool|output")} == {8}


def test_readers_that_want_a_tensor_differently_have_a_quantizer_each() -> None:
    assert sites(plan(fork())) == ["x|output", "stem|weight", "relu|output", "left|weight", "right|weight"]
    found = plan(fork(), scope_overrides={"activations": {"left": {"bits": 4}}})
    assert "relu|output" not in sites(found)
    assert (at(found, "left|input:0").bits, at(found, "right|input:0").bits) == (4, 8)


@pytest.mark.parametrize("name", ["relu|OUTPUT", "relu|output", r"{re}rel.\|OUTPUT"])
def test_the_quantizer_at_a_place_is_changed_for_all_that_read_it(name: str) -> None:
    found = plan(fork(), scope_overrides={"activations": {name: {"bits": 4, "signed": True}}})
    assert sites(found) == sites(plan(fork()))
    assert (at(found, "relu|output").bits, at(found, "relu|output").signed) == (4, True)


def test_names_of_nncf_2_for_inputs_and_weights() -> None:
    ours = residual_block()
    found = plan(ours, ignored_scopes=["body"], scope_overrides={"activations": {"add|INPUT1": {"bits": 4}, "x": {"bits": 5}}})
    assert (at(found, "add|input:1").bits, at(found, "x|output").bits) == (4, 5)
    assert at(plan(ours, scope_overrides={"weights": {"body|WEIGHT": {"bits": 2}}}), "body|weight").bits == 2


def test_the_more_exact_scope_and_then_the_later_one_has_the_last_word_on_each_key() -> None:
    overrides = {"body": {"bits": 4}, "{re}.*": {"bits": 3, "mode": "asymmetric"}, "{re}stem|body": {"bits": 2}}
    found = plan(residual_block(), scope_overrides={"weights": overrides})
    assert [at(found, f"{name}|weight").bits for name in ("stem", "body", "head")] == [2, 4, 3]
    assert not any(at(found, f"{name}|weight").symmetric for name in ("stem", "body", "head"))


def test_order_of_scopes() -> None:
    names = ["a|OUTPUT", r"{re}b\|INPUT0", "a", "{re}a|b"]
    assert sorted(names, key=precedence) == ["{re}a|b", "a", r"{re}b\|INPUT0", "a|OUTPUT"]
    assert [is_of_place(name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize(
    "keys, words",
    [
        (
            {"scope_overrides": {"weights": {"bodi": {"bits": 4}}}},
            'scope_overrides.weights: "bodi" matches no quantizer of weights',
        ),
        ({"scope_overrides": {"weights": {"relu1": {"bits": 4}}}}, '"relu1" matches no quantizer of weights'),
        ({"scope_overrides": {"activations": {"relu3|OUTPUT": {}}}}, 'the nearest quantizer of activations is "relu'),
        ({"activations": {"unified_scale_ops": [["add", "flaten"]]}}, 'unified_scale_ops[0]: "flaten" matches no quantizer'),
    ],
)
def test_a_scope_without_a_quantizer(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(residual_block(), **keys)
    assert words in str(caught.value)
    section = keys.get("activations")
    lenient = {"activations": {**section, "validate_scopes": False}} if section else {**keys, "validate_scopes": False}
    assert sites(plan(residual_block(), **lenient))


# Groups


def test_scopes_of_activations_are_about_what_operators_read() -> None:
    found = sites(plan(fork(), activations={"ignored_scopes": ["left", "x"]}))
    assert "right|input:0" in found and "left|input:0" not in found and "x|output" not in found
    assert "left|weight" in found


def test_one_range_for_the_operands_of_two_sums() -> None:
    apart = plan(joined())
    assert len([site for site in sites(apart) if "|output" in site]) == 5
    found = plan(joined(), activations={"unified_scale_ops": [["sum1", "sum2"]]})
    assert "a|output=b|output=c|output=d|output" in sites(found)
    (shared,) = [edit for edit in found if len(edit.sites) == 4]
    assert shared.operators == ("sum1", "sum2")


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"unified_scale_ops": [["sum1"], ["a|OUTPUT", "sum2"]]}, "unified_scale_ops[1]: a|output is in group 0 too"),
        (
            {"unified_scale_ops": [["sum1", "x|OUTPUT"]], "per_channel": True},
            "expected the same",
        ),
    ],
)
def test_groups_that_cannot_share(keys: dict[str, Any], words: str) -> None:
    graph = joined()
    wide = tuple(edge if edge.source != "x" else type(edge)(**{**vars(edge), "shape": (1, 3, 6, 6)}) for edge in graph.edges)
    with pytest.raises(ConfigError) as caught:
        plan(Graph(graph.nodes, wide), activations=keys)
    assert words in str(caught.value)


def test_quantizers_of_other_settings_cannot_share() -> None:
    with pytest.raises(ConfigError, match=r"unified_scale_ops\[0\]: a\|output has .*bits=4.* and c\|output .*bits=8"):
        plan(
            joined(),
            activations={"unified_scale_ops": [["sum1", "sum2"]]},
            scope_overrides={"activations": {"sum1": {"bits": 4}}},
        )


# Inputs and outputs


def test_every_input_of_a_model_is_quantized_or_none() -> None:
    assert {"x|output", "y|output"} <= set(sites(plan(two_inputs())))
    assert not {"x|output", "y|output"} & set(sites(plan(two_inputs(), quantize_inputs=False)))
    assert "y|output" not in sites(plan(two_inputs(), ignored_scopes=["y"])) and "x|output" in sites(
        plan(two_inputs(), ignored_scopes=["y"])
    )
    assert "head|output" in sites(plan(two_inputs(), quantize_outputs=True, quantize_inputs=False))


# First ranges

RANGES = [
    {"type": "min_max", "target_scopes": ["stem", "{re}body"], "target_quantizer_group": "weights"},
    {"type": "percentile", "target_scopes": "head", "params": {"max_percentile": 99.0}},
    {"type": "threesigma", "ignored_scopes": ["x|OUTPUT"], "target_quantizer_group": "activations", "num_init_samples": 4},
    {"type": "mean_min_max", "target_scopes": ["x"], "target_quantizer_group": "activations"},
]


def test_ranges_per_layer() -> None:
    algorithm = quantization(initializer={"range": RANGES})
    found = algorithm.range_inits(residual_block(), algorithm.plan(residual_block(), "ANY").edits)
    kinds = {key.removesuffix("|quantizer"): start.type for key, start in found.items()}
    assert kinds.pop("x|output") == "mean_min_max"
    assert [kinds.pop(f"{name}|weight") for name in ("stem", "body", "head")] == ["min_max", "min_max", "percentile"]
    assert set(kinds.values()) == {"threesigma"}
    assert found["head|weight|quantizer"].params.max_percentile == 99.0
    assert found["relu1|output|quantizer"].num_init_samples == 4


def test_the_range_of_an_override_goes_before_the_general_one() -> None:
    own = {"initializer": {"range": {"type": "mean_percentile"}}}
    algorithm = quantization(
        initializer={"range": RANGES}, scope_overrides={"activations": {"pool": own}, "weights": {"head": own}}
    )
    found = algorithm.range_inits(residual_block(), algorithm.plan(residual_block(), "ANY").edits)
    changed = {key for key, start in found.items() if start.type == "mean_percentile"}
    assert changed == {"relu2|output|quantizer", "head|weight|quantizer"}


@pytest.mark.parametrize(
    "entries, words",
    [
        (RANGES[:3], "initializer.range: no entry is about x|output, expected one entry for every quantizer"),
        ([*RANGES, {"target_scopes": "relu1"}], "initializer.range: entries 2 and 4 are both about relu1|output"),
        ([*RANGES, {"target_scopes": "relu7"}], 'initializer.range[4].target_scopes: "relu7" matches no quantizer; the nearest'),
    ],
)
def test_every_quantizer_has_one_entry(entries: list[Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(residual_block(), initializer={"range": entries})
    assert words in str(caught.value)


# Devices


def test_tables_of_the_devices() -> None:
    graph = network(
        Node("x", "Input"), conv("c"), conv("d", depthwise=True), gemm("g"), Node("y", "Output"), wires="x>c c>d d>g g>y"
    )
    bits = {
        device: {name: sorted({b for b, _, _ in has if b <= 8}) for name, has in allowed(graph, device, True).items()}
        for device in ("CPU", "GPU", "NPU", "CPU_SPR")
    }
    assert bits["CPU"] == bits["GPU"] == bits["CPU_SPR"] == {"c": [8], "d": [8], "g": [8]}
    assert bits["NPU"] == {"c": [4, 8], "d": [2, 4, 8], "g": [2, 4, 8]}
    assert allowed(graph, "ANY", True) == allowed(graph, "TRIAL", False) == {}


@pytest.mark.parametrize("device", ["ANY", "TRIAL", "NPU"])
def test_four_bit_weights_where_they_are_known(device: str) -> None:
    found = plan(residual_block(), device, weights={"bits": 4})
    assert {at(found, f"{name}|weight").bits for name in ("stem", "body", "head")} == {4}


def test_npu_takes_a_preset() -> None:
    assert not at(plan(residual_block(), "NPU", preset="mixed"), "relu1|output").symmetric


@pytest.mark.parametrize(
    "device, keys, words",
    [
        (
            "CPU",
            {"weights": {"bits": 4}},
            "weights.bits: found 4 for stem|weight, but Conv on CPU takes 8 (ANY takes what comes)",
        ),
        ("CPU_SPR", {"activations": {"bits": 4}}, "activations.bits: found 4 for x|output, but Conv on CPU_SPR takes 8"),
        ("NPU", {"weights": {"bits": 2}}, "weights.bits: found 2 for stem|weight, but Conv on NPU takes 4 or 8"),
        (
            "NPU",
            {"weights": {"bits": 4, "mode": "asymmetric"}},
            'weights: found bits, mode, per_channel 4 "asymmetric" true for stem',
        ),
        ("NPU", {"activations": {"bits": 4}}, "activations.bits: found 4 for relu2|output, but GlobalAveragePool on NPU takes 8"),
        (
            "CPU",
            {"activations": {"per_channel": True}},
            "activations.per_channel: found true for x|output, but Conv on CPU takes false",
        ),
        (
            "GPU",
            {"scope_overrides": {"weights": {"{re}bod": {"bits": 4}}}},
            'scope_overrides.weights["{re}bod"].bits: found 4 for body|weight, but Conv on GPU takes 8',
        ),
    ],
)
def test_what_a_device_does_not_have(device: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(residual_block(), device, **keys)
    assert words in str(caught.value)
    plan(residual_block(), "ANY", **keys)


def test_mixed_bits_on_npu() -> None:
    """The convolution of 4 bits reads 4 bits, its neighbour 8 bits of the same tensor."""
    overrides = {"weights": {"left": {"bits": 4}}, "activations": {"left": {"bits": 4}}}
    found = plan(fork(), "NPU", scope_overrides=overrides)
    assert [at(found, site).bits for site in ("left|weight", "left|input:0", "right|weight", "right|input:0")] == [4, 4, 8, 8]
