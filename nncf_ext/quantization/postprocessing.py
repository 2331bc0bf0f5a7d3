"""What a detector does behind its heads: operators that choose by what they see, what only prepares it, and what follows."""

from __future__ import annotations

from nncf_ext.graph import INPUT, OUTPUT, Graph

_CHOOSING = frozenset(["TopK", "sort", "argsort", "msort", "nonzero", "nms", "masked_select", "unique", "argwhere"])


def around_choices(graph: Graph) -> set[str]:
    """Nodes that work on a choice which the data make (top-k, a mask, suppressed boxes), with no weight between them and the
    outputs: they are run for as many elements as there happen to be, often in inference only, and stay in floating point. So does
    what stands between the last weights and such choices only: boxes are decoded in inference only, and to pixels."""
    chosen: set[str] = set()
    for node in graph.nodes:  # in execution order
        sources = {edge.source for edge in graph.inputs_of.get(node.name, ())}
        chooses = node.op in _CHOOSING or (node.op == "Where" and len(sources) == 1 and bool(node.attrs.get("scattered_output")))
        if chooses or sources & chosen:
            chosen.add(node.name)
    to_weights: set[str] = set()
    for node in reversed(graph.nodes):
        targets = {edge.target for edge in graph.outputs_of.get(node.name, ())}
        if node.parameters or targets & to_weights:
            to_weights.add(node.name)
    chosen -= to_weights
    preparing: set[str] = set()
    for node in reversed(graph.nodes):
        targets = {edge.target for edge in graph.outputs_of.get(node.name, ())}
        if targets and targets <= chosen | preparing and node.name not in to_weights and node.op != INPUT:
            preparing.add(node.name)
    return {name for name in chosen | preparing if graph[name].op != OUTPUT}
