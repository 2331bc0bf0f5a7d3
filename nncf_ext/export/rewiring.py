"""Small moves on an ONNX graph."""

from __future__ import annotations

import onnx_ir as ir


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that uses `value`, None where there are more or it leaves the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def replace_node(old: ir.Node, new: ir.Node) -> None:
    """The users of `old` read `new` (already in the graph); a graph output keeps its name. `old` goes."""
    bypass(old, new.outputs[0])


def bypass(old: ir.Node, value: ir.Value) -> None:
    """The users of `old` read `value`; a graph output keeps its name. `old` goes."""
    output = old.outputs[0]
    if value.shape is None:
        value.shape = output.shape
    if value.type is None:
        value.type = output.type
    name, is_output = output.name, output.is_graph_output()
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    old.graph.remove(old, safe=True)  # type: ignore[union-attr]
    if is_output:
        output.name, value.name = None, name
