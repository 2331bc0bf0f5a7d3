"""What stays of removals and of variables, by hand, on graphs made by hand."""

import numpy as np
import pytest

from nncf_ext.channels.removal import merge_removals, variables_left
from nncf_ext.edits import Edit, Removal
from nncf_ext.errors import ConfigError
from nncf_ext.graph import INPUT, OUTPUT, Edge, Graph, Node, Parameter, Site
from nncf_ext.quantization.quantizers import NNCFQuantizer


def conv(name, outputs, inputs, **attrs):
    parameters = (
        Parameter("weight", f"{name}.weight", (outputs, inputs, 1, 1), 0, 1, input_axis=1),
        Parameter("bias", f"{name}.bias", (outputs,), 0, 2),
    )
    return Node(name, "Conv", name, parameters, attrs)


def chain(a, b, c):
    """input - conv1 (3 to a) - relu - depthwise - conv2 (a to b) - add with conv3 (3 to b) - cat with relu - conv4 (to c)"""
    nodes = (
        Node("input", INPUT),
        conv("conv1", a, 3),
        Node("relu", "Relu"),
        conv("depthwise", a, 1, depthwise=True, groups=a),
        conv("conv2", b, a),
        conv("conv3", b, 3),
        Node("add", "Add"),
        Node("cat", "Concat", attrs={"axis": 1}),
        conv("conv4", c, a + b),
        Node("output", OUTPUT),
    )
    tensors = {"input": 3, "conv1": a, "relu": a, "depthwise": a, "conv2": b, "conv3": b, "add": b, "cat": a + b, "conv4": c}
    links = (
        "input-conv1 input-conv3 conv1-relu relu-depthwise depthwise-conv2 conv2-add conv3-add "
        "relu-cat add-cat cat-conv4 conv4-output"
    )
    ports, edges = dict.fromkeys((node.name for node in nodes), 0), []
    for source, target in (link.split("-") for link in links.split()):
        edges.append(Edge(source, target, 0, ports[target], (1, tensors[source], 8, 8)))
        ports[target] += 1
    return Graph(nodes, tuple(edges))


BEFORE, AFTER = chain(4, 4, 5), chain(2, 2, 5)
FIRST, SECOND = (0, 3), (1, 2)
REMOVALS = (
    *(Removal(Site("conv1", slot), 0, FIRST) for slot in ("weight", "bias")),
    *(Removal(Site("depthwise", slot), 0, FIRST) for slot in ("weight", "bias")),
    Removal(Site("conv2", "weight"), 1, FIRST),
    *(Removal(Site(name, slot), 0, SECOND) for name in ("conv2", "conv3") for slot in ("weight", "bias")),
    Removal(Site("conv4", "weight"), 1, (*FIRST, 4 + 1, 4 + 2)),
)


def left(site, axis, removals=REMOVALS, shape=None):
    """Of a quantizer's scales 0, 1, 2, ... along `axis` at a site."""
    edit = Edit((Site.parse(site),), NNCFQuantizer(bits=8, symmetric=True, channel_axis=axis), "quantization")
    size = BEFORE.shape_of(edit.site)[axis] if axis is not None else 1
    values = np.arange(size, dtype=np.float32).reshape([size if a == axis else 1 for a in range(len(BEFORE.shape_of(edit.site)))])
    value = variables_left(edit, {"scale": values}, BEFORE, AFTER, removals)["scale"].value
    assert value.ndim == 4 and value.size == value.shape[axis or 0]
    return tuple(value.reshape(-1).astype(int))


@pytest.mark.parametrize(
    ("site", "axis", "expected"),
    [
        ("conv1|weight", 0, FIRST),
        ("conv2|weight", 0, SECOND),
        ("conv2|weight", 1, FIRST),
        ("conv4|weight", 0, (0, 1, 2, 3, 4)),
        ("depthwise|weight", 0, FIRST),
        ("conv1|weight", None, (0,)),
        ("input|output", 1, (0, 1, 2)),
        ("conv1|output", 1, FIRST),
        ("relu|output", 1, FIRST),
        ("depthwise|input:0", 1, FIRST),
        ("depthwise|output", 1, FIRST),
        ("conv2|input:0", 1, FIRST),
        ("conv2|output", 1, SECOND),
        ("add|input:1", 1, SECOND),
        ("add|output", 1, SECOND),
        ("cat|output", 1, (0, 3, 5, 6)),
        ("conv4|input:0", 1, (0, 3, 5, 6)),
        ("conv4|output", 1, (0, 1, 2, 3, 4)),
    ],
)
def test_scales_of_the_channels_that_are_left(site, axis, expected):
    assert left(site, axis) == expected


def test_channels_that_cannot_be_told():
    only = tuple(removal for removal in REMOVALS if removal.site.node == "conv2" and removal.axis == 0)
    with pytest.raises(ConfigError, match=r"cat\|output: .* which 4 of 8 channels are left cannot be told"):
        left("cat|output", 1, only)


def test_removals_of_several_algorithms():
    weight, bias = Site("conv1", "weight"), Site("conv1", "bias")
    both = [Removal(weight, 0, (0, 1, 3)), Removal(bias, 0, (0, 1, 3)), Removal(weight, 1, (2,)), Removal(weight, 0, (1, 2, 3))]
    assert merge_removals(both) == (Removal(weight, 0, (1, 3)), Removal(bias, 0, (0, 1, 3)), Removal(weight, 1, (2,)))
    assert merge_removals([]) == ()
