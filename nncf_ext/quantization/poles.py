"""Operators that are infinite at zero: what they read is not rounded, because rounding makes zeros of small numbers."""

from __future__ import annotations

from nncf_ext.graph import Edge, Graph

_POINTWISE = frozenset(
    ("Add", "Max", "Clip", "Abs", "Sqrt", "Pow", "Exp", "Relu", "Identity", "Cast", "Slice", "Unsqueeze", "Squeeze", "Expand")
)


def around_poles(graph: Graph) -> set[str]:
    """Divisions by what the model computes, logarithms and negative powers, and the pointwise operators of one tensor (plus an
    epsilon, say) whose result only they read. No runtime computes these on integers, so nothing is lost."""
    found = {node.name for node in graph.nodes if any(_pole(graph, edge) for edge in graph.inputs_of.get(node.name, ()))}
    making: set[str] = set()
    for node in reversed(graph.nodes):  # readers first
        readers = graph.outputs_of.get(node.name, ())
        alone = node.op in _POINTWISE and not node.parameters and len(graph.inputs_of.get(node.name, ())) == 1
        if alone and readers and all(edge.target in making or _pole(graph, edge) for edge in readers):
            making.add(node.name)
    return found | making


def _pole(graph: Graph, edge: Edge) -> bool:
    """Whether what passes the edge must not become zero."""
    reader = graph[edge.target]
    if reader.op == "Div":
        return edge.target_port == 1
    return reader.op in ("Reciprocal", "Log") or (reader.op == "Pow" and reader.attrs.get("exponent", 0) < 0)
