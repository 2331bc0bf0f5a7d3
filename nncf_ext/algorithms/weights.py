"""Which weights an algorithm for weights takes."""

from __future__ import annotations

from collections.abc import Callable

from nncf_ext.config.section import ScopedConfig
from nncf_ext.edits import Edit, Plan, Transform
from nncf_ext.graph import Graph, Node, Parameter, Site
from nncf_ext.ops import weights
from nncf_ext.scopes import considered, select


def plan_weights(
    graph: Graph,
    config: ScopedConfig,
    algorithm: str,
    transform: Transform | Callable[[Node, Parameter], Transform],
    why_not: Callable[[Node, Parameter], str | None] = lambda node, weight: None,
) -> Plan:
    """`transform` on the weights of every node in the scopes of `config`; a weight that nodes share gets one for all.

    transform: one for all weights, or what each has. why_not: why a weight is left out, or None.
    """
    select(
        [node.name for node in graph.nodes], config.ignored_scopes, config.target_scopes, config.validate_scopes, config.path()
    )
    found: dict[str, list[tuple[Node, Parameter]]] = {}
    skipped: dict[tuple[str, str], None] = {}
    for node in graph.nodes:
        inside = considered(node.name, config.ignored_scopes, config.target_scopes)
        for weight in weights(node):
            reason = why_not(node, weight) if inside else f"outside the scopes of {algorithm}"
            if reason is None:
                found.setdefault(weight.name, []).append((node, weight))
            else:
                skipped[node.name, reason] = None
    edits = []
    for owners in found.values():
        own = transform if isinstance(transform, Transform) else transform(*owners[0])
        edits.append(Edit(tuple(Site(node.name, weight.slot) for node, weight in owners), own, algorithm))
    return Plan(tuple(edits), tuple(skipped))
