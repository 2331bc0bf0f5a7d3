"""Which quantizers meet, on graphs whose right answer can be read off the drawing; and what devices allow there."""

import pytest

from nncf_ext.config.precision import PrecisionInit
from nncf_ext.edits import Edit
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph, Node, Site
from nncf_ext.nncf_config import NNCFConfig
from nncf_ext.quantization.precision.adjacency import Group, groups, operators_of
from nncf_ext.quantization.precision.choice import choices_for, supported_bits
from nncf_ext.quantization.quantizers import NNCFQuantizer
from tests.core.test_placement import conv, network, residual_block


def quantizer(*sites: str, operators: tuple[str, ...] = (), **settings) -> Edit:
    transform = NNCFQuantizer(**{"bits": 8, "symmetric": True, **settings})
    return Edit(tuple(map(Site.parse, sites)), transform, "quantization", operators=operators)


def placed(graph: Graph, device: str = "ANY") -> tuple[Edit, ...]:
    (algorithm,) = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}}).algorithms()
    return algorithm.plan(graph, device).edits


def key(site: str) -> str:
    return f"{site}|quantizer"


def test_operators_behind_what_only_passes_on():
    operators = operators_of(placed(residual_block()))
    assert operators[key("relu1|output")] == {"body", "add"}
    assert operators[key("bn2|output")] == {"add"}
    assert operators[key("relu2|output")] == {"pool"}
    assert operators[key("head|weight")] == {"head"}


def test_groups_of_a_residual_block():
    """relu1 goes to the body and to the addition, where bn2 joins it."""
    edits = placed(residual_block())
    assert groups(edits, operators_of(edits)) == (
        Group((key("stem|weight"),), (key("x|output"),)),
        Group((key("body|weight"),), (key("relu1|output"), key("bn2|output"))),
        Group((), (key("relu2|output"),)),
        Group((key("head|weight"),), (key("pool|output"),)),
    )


def test_flops_reach_the_uses():
    """3x3 kernel, 8 -> 8 channels on 6x6 places: 2 * 9 * 8 * 8 * 36. Groups without a weight are left alone."""
    edits = placed(residual_block())
    choices = choices_for(residual_block(), edits, PrecisionInit(type="hawq"), *both(residual_block(), edits, "TRIAL"), "")
    (use,) = choices.uses[key("body|weight")]
    assert (use.flops, use.activations) == (2 * 9 * 8 * 8 * 36, (key("relu1|output"),))
    assert [weights for weights, _ in choices.groups] == [(key(f"{name}|weight"),) for name in ("stem", "body", "head")]


def both(graph: Graph, edits: tuple[Edit, ...], device: str):
    operators = operators_of(edits)
    return operators, supported_bits(graph, edits, operators, device)


def test_bits_of_devices():
    graph = network(
        Node("x", "Input"),
        conv("plain"),
        conv("depthwise", depthwise=True),
        Node("pool", "GlobalAveragePool"),
        Node("y", "Output"),
        wires="x>plain plain>depthwise depthwise>pool pool>y",
    )
    edits = (
        quantizer("x|output", operators=("plain",)),
        quantizer("plain|weight", channel_axis=0),
        quantizer("plain|output", operators=("depthwise",)),
        quantizer("depthwise|weight", channel_axis=0, symmetric=False),
        quantizer("depthwise|output", operators=("pool",)),
    )
    _, supported = both(graph, edits, "NPU")
    assert list(supported.values()) == [(4, 8), (4, 8), (8,), (8,), (8,)]
    assert set(both(graph, edits, "CPU")[1].values()) == {(8,)}
    assert set(both(graph, edits, "TRIAL")[1].values()) == set(both(graph, edits, "ANY")[1].values()) == {None}


def test_strict_mode_takes_what_all_of_a_group_have():
    settings = PrecisionInit(type="hawq", bits=(2, 4), bitwidth_assignment_mode="strict")
    edits = placed(residual_block())
    operators, supported = both(residual_block(), edits, "TRIAL")
    supported[key("relu1|output")] = (4, 8)
    choices = choices_for(residual_block(), edits, settings, operators, supported, "here")
    assert choices.options[key("body|weight")] == choices.options[key("bn2|output")] == (4,)
    assert choices.options[key("stem|weight")] == (2, 4)
    supported[key("bn2|output")] = (8,)
    with pytest.raises(ConfigError, match="^here.bitwidth_assignment_mode: strict needs a number of bits that all quantizers"):
        choices_for(residual_block(), edits, settings, operators, supported, "here")
