"""A traced graph with its plan as a picture (SVG) and as Graphviz text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from nncf_ext.edits import MASK, Edit, Plan
from nncf_ext.files.writing import write_text
from nncf_ext.graph import INPUT, OUTPUT, Graph, Node

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _LETTER = 230, 34, 24, 26, 6.2  # of a box, in pixels
_FILLS = {"mask": "#f8d9a8", "quantizer": "#cfe3f6", "both": "#d9e8c4", "none": "#f4f4f4", "end": "#ffffff"}
Edits = dict[str, dict[str, list[Edit]]]  # by node name and slot
_LEGEND = (("mask", "weights masked"), ("quantizer", "quantized"), ("both", "both"), ("none", "as it was"))


def write_graphs(folder: Path, graph: Graph, plan: Plan) -> None:
    """`original_graph.dot`, `compressed_graph.dot` and `compressed_graph.svg` in `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "original_graph.dot", dot(graph, Plan()))
    write_text(folder / "compressed_graph.dot", dot(graph, plan))
    write_text(folder / "compressed_graph.svg", svg(graph, plan))


def dot(graph: Graph, plan: Plan) -> str:
    """The graph in Graphviz' language; what the plan places is in the labels."""
    edits = _edits_by_node(plan)
    numbers = {node.name: index for index, node in enumerate(graph.nodes)}
    lines = ["digraph {", "  node [shape=box, style=filled, fontname=Helvetica];"]
    for node in graph.nodes:
        label = "\\n".join(_quoted(line) for line in (node.name, *_lines(node, edits)))
        lines.append(f'  {numbers[node.name]} [label="{label}", fillcolor="{_FILLS[_kind(node, edits)]}"];')
    for edge in graph.edges:
        lines.append(f'  {numbers[edge.source]} -> {numbers[edge.target]} [label="{list(edge.shape)}"];')
    return "\n".join([*lines, "}", ""])


def svg(graph: Graph, plan: Plan) -> str:
    """The graph from top to bottom, in execution order; the colour of an operator says what the plan does to it."""
    edits, places = _edits_by_node(plan), _places(graph)
    columns = 1 + max((x for x, _ in places.values()), default=0)
    rows = 1 + max((y for _, y in places.values()), default=0)
    width = max(columns, 4) * (_WIDTH + _GAP_X) + _GAP_X
    height = (rows + 1) * (_HEIGHT + _GAP_Y) + _GAP_Y
    body = [
        *_legend(),
        *_arrows(graph, places),
        *(part for node in graph.nodes for part in _box(node, edits, *_corner(places[node.name]))),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="11">',
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#777"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _places(graph: Graph) -> dict[str, tuple[int, int]]:
    """(column, row) of every node: the row is the longest way from an input, the column the first that is free in it.

    A node stands under its first source where that is free, so that chains are straight lines.
    """
    places: dict[str, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    for node in graph.nodes:
        sources = [places[edge.source] for edge in graph.inputs_of.get(node.name, ()) if edge.source in places]
        row = 1 + max((y for _, y in sources), default=-1)
        column = min((x for x, _ in sources), default=0)
        while (column, row) in taken:
            column += 1
        places[node.name] = (column, row)
        taken.add((column, row))
    return places


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return _GAP_X + place[0] * (_WIDTH + _GAP_X), _GAP_Y + (place[1] + 1) * (_HEIGHT + _GAP_Y)


def _legend() -> Iterator[str]:
    for index, (kind, text) in enumerate(_LEGEND):
        x = _GAP_X + index * (_WIDTH + _GAP_X)
        yield f'<rect x="{x}" y="{_GAP_Y}" width="16" height="16" fill="{_FILLS[kind]}" stroke="#777"/>'
        yield f'<text x="{x + 22}" y="{_GAP_Y + 12}">{text}</text>'


def _arrows(graph: Graph, places: dict[str, tuple[int, int]]) -> Iterator[str]:
    for edge in graph.edges:
        (x0, y0), (x1, y1) = _corner(places[edge.source]), _corner(places[edge.target])
        x0, x1, y0 = x0 + _WIDTH / 2, x1 + _WIDTH / 2, y0 + _HEIGHT
        last = y1 - _GAP_Y
        if places[edge.target][1] - places[edge.source][1] > 1 and x0 == x1:  # around the boxes between
            side = x0 + _WIDTH / 2 + 0.8 * _GAP_X
            aside = f"C{x0} {y0 + _GAP_Y} {side} {y0} {side} {y0 + _GAP_Y}"
            path = f"M{x0} {y0} {aside} L{side} {last} C{side} {y1} {x1} {last} {x1} {y1}"
        else:
            path = f"M{x0} {y0} L{x0} {last} C{x0} {y1} {x1} {last} {x1} {y1}"
        yield f'<path d="{path}" fill="none" stroke="#777" marker-end="url(#arrow)"/>'


def _box(node: Node, edits: Edits, x: int, y: int) -> Iterator[str]:
    lines = _lines(node, edits)
    yield f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="{_FILLS[_kind(node, edits)]}" stroke="#777">'
    yield f"<title>{escape(chr(10).join((node.name, *lines)))}</title></rect>"
    title = f"{node.op} {node.module}".strip()
    yield f'<text x="{x + 6}" y="{y + 14}" font-weight="bold">{escape(_short(title))}</text>'
    yield f'<text x="{x + 6}" y="{y + 28}" fill="#444">{escape(_short(", ".join(lines)))}</text>'


def _lines(node: Node, edits: Edits) -> tuple[str, ...]:
    """What the plan places at the node: `weight: mask, 8 bit`."""
    return tuple(f"{slot}: {', '.join(map(_what, placed))}" for slot, placed in edits.get(node.name, {}).items())


def _edits_by_node(plan: Plan) -> Edits:
    found: Edits = {}
    for edit in plan:
        for site in edit.sites:
            found.setdefault(site.node, {}).setdefault(site.slot, []).append(edit)
    return found


def _what(edit: Edit) -> str:
    bits = getattr(edit.transform, "bits", None)
    return edit.transform.kind.replace("_", " ") if bits is None else f"{bits} bit"


def _kind(node: Node, edits: Edits) -> str:
    stages = {edit.transform.stage == MASK for placed in edits.get(node.name, {}).values() for edit in placed}
    if not stages:
        return "end" if node.op in (INPUT, OUTPUT) else "none"
    return "both" if len(stages) == 2 else "mask" if True in stages else "quantizer"


def _short(text: str) -> str:
    """As much of the text as a box holds; of a long name the end."""
    letters = int(_WIDTH / _LETTER)
    return text if len(text) <= letters else f"{text[: letters // 3]}…{text[len(text) - 2 * letters // 3 + 1 :]}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
