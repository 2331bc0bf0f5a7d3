"""Which weights an algorithm for weights takes."""

from __future__ import annotations

from collections.abc import Callable

from nncf_ext.config.section import ScopedConfig
from nncf_ext.edits import Edit, Plan, Transform
from nncf_ext.graph import Graph, Node, Site
from nncf_ext.ops import has_weight
from nncf_ext.scopes import considered, select


def plan_weights(
    graph: Graph,
    config: ScopedConfig,
    algorithm: str,
    transform: Transform | Callable[[Node], Transform],
    why_not: Callable[[Node], str | None] = lambda node: None,
) -> Plan:
    """`transform` on the weight of every node in the scopes of `config`; a weight that nodes share gets one for all.

    transform: one for all nodes, or what each has. why_not: why a node is left out, or None.
    """
    select([node.name for node in graph.nodes], config.ignored_scopes, config.target_scopes, config.validate_scopes, config.where)
    sites: dict[str, list[Site]] = {}
    skipped = []
    for node in graph.nodes:
        weight = node.parameter("weight")
        if weight is None or not has_weight(node):
            continue
        inside = considered(node.name, config.ignored_scopes, config.target_scopes)
        reason = why_not(node) if inside else f"outside the scopes of {algorithm}"
        if reason is None:
            sites.setdefault(weight.name, []).append(Site(node.name, "weight"))
        else:
            skipped.append((node.name, reason))
    edits = []
    for shared in sites.values():
        own = transform if isinstance(transform, Transform) else transform(graph[shared[0].node])
        edits.append(Edit(tuple(shared), own, algorithm))
    return Plan(tuple(edits), tuple(skipped))
