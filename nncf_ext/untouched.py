"""What a plan leaves of a model as it is: weights that no algorithm takes, with the reason, so that nobody counts on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nncf_ext.edits import Plan
from nncf_ext.graph import Graph, Node, Parameter
from nncf_ext.ops import RECURRENT, weights

_UNREAD = "no operator that is known was seen to read it"


@dataclass(frozen=True)
class Untouched:
    """weights: numbers in the parameters that count as weights and stay as they are. share: of all numbers in such parameters."""

    weights: int
    share: float


def is_weight(shape: Sequence[int]) -> bool:
    """Whether a parameter of this shape is more than a number, or a number for each channel."""
    return sum(size > 1 for size in shape) > 1


def unknown_weights(graph: Graph) -> tuple[tuple[str, str], ...]:
    """(node or parameter, reason) for weights that no algorithm knows as such."""
    known = {weight.name for node in graph.nodes for weight in weights(node)}
    found = {}
    for node, parameter in _others(graph):
        if parameter.name not in known:
            found.setdefault(
                parameter.name, (node.name, f"{node.op}: its parameter {parameter.name} is no weight of a known kind")
            )
    readers = {name: node for node in reversed(graph.nodes) for name in node.attrs.get("reads", ())}
    for name, shape in graph.unowned.items():
        if is_weight(shape) and name not in found:
            reader = readers.get(name)
            found[name] = (name, _UNREAD if reader is None else f"read by {reader.name} ({reader.op}): no weight of a known kind")
    return tuple(found.values())


def untouched(graph: Graph, plan: Plan) -> Untouched | None:
    """How much of the model's weights stays as it is; None where the plan is about no weights, or about all."""
    placed = {graph.parameter_at(site).name for edit in plan for site in edit.sites if site.is_parameter}
    if not placed:
        return None
    left_out = {name for name, _ in plan.skipped}
    sizes = {weight.name: math.prod(weight.shape) for node in graph.nodes for weight in weights(node)}
    stays = {w.name for node in graph.nodes if node.name in left_out for w in weights(node)} - placed
    others = {p.name: math.prod(p.shape) for _, p in _others(graph)}
    others |= {name: math.prod(shape) for name, shape in graph.unowned.items() if is_weight(shape)}
    stays |= {name for name in others if name not in sizes} - placed
    sizes = {**others, **sizes}
    count = sum(sizes[name] for name in stays)
    return Untouched(count, count / sum(sizes.values())) if count else None


def _others(graph: Graph) -> Iterator[tuple[Node, Parameter]]:
    """Parameters with the shape of a weight that are none of their node's `weights`."""
    for node in graph.nodes:
        own = {weight.slot for weight in weights(node)}
        for parameter in node.parameters:
            if parameter.slot not in own and is_weight(parameter.shape) and node.op not in RECURRENT:
                yield node, parameter
