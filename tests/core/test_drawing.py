"""Graphs as pictures: every operator and edge is there, and says what is done to it."""

import xml.etree.ElementTree as ET

from nncf_ext.algorithms.magnitude_sparsity import BinaryMask
from nncf_ext.drawing import dot, svg, write_graphs
from nncf_ext.edits import Edit, Plan
from nncf_ext.graph import Edge, Graph, Node, Parameter, Site
from nncf_ext.quantization.quantizers import NNCFQuantizer

GRAPH = Graph(
    (
        Node("in", "Input"),
        Node("a<1>", "Conv", "a", (Parameter("weight", "a.weight", (4, 3, 3, 3), 0),)),
        Node("b", "Conv", "b", (Parameter("weight", "b.weight", (4, 4, 3, 3), 0),)),
        Node("add", "Add"),
        Node("out", "Output"),
    ),
    (Edge("in", "a<1>"), Edge("a<1>", "b"), Edge("a<1>", "add"), Edge("b", "add", 0, 1), Edge("add", "out", shape=(1, 4, 8, 8))),
)
PLAN = Plan(
    (
        Edit((Site("a<1>", "weight"),), BinaryMask(), "magnitude_sparsity"),
        Edit((Site("a<1>", "weight"),), NNCFQuantizer(bits=4, symmetric=True), "quantization"),
        Edit((Site("b", "output"),), NNCFQuantizer(bits=8, symmetric=True), "quantization"),
    )
)
NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def test_the_picture_has_every_operator_and_edge():
    root = ET.fromstring(svg(GRAPH, PLAN))
    titles = [title.text.split("\n") for title in root.iterfind(".//svg:rect/svg:title", NAMESPACE)]
    assert titles == [["in"], ["a<1>", "weight: mask, 4 bit"], ["b", "output: 8 bit"], ["add"], ["out"]]
    paths = [path for path in root.iterfind("svg:path", NAMESPACE)]
    assert len(paths) == len(GRAPH.edges)


def test_no_two_operators_stand_at_the_same_place_and_all_are_inside():
    root = ET.fromstring(svg(GRAPH, PLAN))
    boxes = [rect for rect in root.iterfind("svg:rect", NAMESPACE) if rect.find("svg:title", NAMESPACE) is not None]
    corners = {(float(box.get("x")), float(box.get("y"))) for box in boxes}
    assert len(corners) == len(GRAPH.nodes)
    assert all(x + 230 < float(root.get("width")) and y + 34 < float(root.get("height")) for x, y in corners)


def test_graphviz_text_names_operators_shapes_and_edits():
    text = dot(GRAPH, PLAN)
    assert '1 [label="a<1>\\nweight: mask, 4 bit"' in text and '3 -> 4 [label="[1, 4, 8, 8]"]' in text
    assert text.count("->") == len(GRAPH.edges)


def test_files(tmp_path):
    write_graphs(tmp_path / "new" / "folder", GRAPH, PLAN)
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["compressed_graph.dot", "compressed_graph.svg", "original_graph.dot"]
    assert "4 bit" not in (tmp_path / "new" / "folder" / "original_graph.dot").read_text()
