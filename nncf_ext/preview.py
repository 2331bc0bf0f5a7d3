"""What a config is going to do to a model, layer by layer, without data and without a change to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from nncf_ext.adapter import Adapter
from nncf_ext.algorithms.algorithm import Outlook
from nncf_ext.compress import planned, united
from nncf_ext.config import NNCFConfig
from nncf_ext.config.initialization import BatchnormAdaptation
from nncf_ext.graph import Graph, Node, Site
from nncf_ext.initialization import batchnorm_settings
from nncf_ext.report import render, rows_table, tables


@dataclass(frozen=True)
class Preview:
    """Layers, nodes that are left alone with the reason, numbers by algorithm, and what only data decide."""

    tables: tuple[Table, ...]

    def __str__(self) -> str:
        return "\n".join(map(render, self.tables))

    def __rich__(self) -> Group:
        return Group(*self.tables)


def preview(adapter: Adapter, model: Any, config: NNCFConfig, example: Any) -> Preview:
    """What compressing `model` as `config` says would do.

    example: inputs to trace with. ConfigError for a config that cannot be applied to the model.
    """
    algorithms = config.algorithms()
    graph = adapter.trace(model, example).graph
    plans = planned(algorithms, graph, config)
    plan = united(plans, graph)
    outlooks = {a.algorithm: a.outlook(graph, plans[a.algorithm].edits) for a in algorithms}
    found = [rows_table("layers", ["layer", "operator", "weight", "what happens"], _layers(graph, outlooks))]
    if plan.skipped:
        found.append(rows_table("left alone", ["node", "reason"], list(plan.skipped)))
    for name, outlook in outlooks.items():
        found += [] if outlook.report is None else tables(name, outlook.report)
    by_data = [(name, words) for name, outlook in outlooks.items() for words in outlook.by_data]
    if _has_batchnorm(graph):
        by_data += [("all", f"BatchNorm statistics, on {most}") for most in _most(batchnorm_settings(algorithms))]
    if by_data:
        found.append(rows_table("decided by data, before training", ["algorithm", "what"], by_data))
    return Preview(tuple(found))


def _layers(graph: Graph, outlooks: Mapping[str, Outlook]) -> list[tuple[str, str, str, str]]:
    return [(n.name, n.op, _shape(n), words) for n in graph.nodes if (words := "\n".join(_words(n, outlooks)))]


def _words(node: Node, outlooks: Mapping[str, Outlook]) -> list[str]:
    """A line per tensor and algorithm: `weight: int8 symmetric per channel`."""
    sites = sorted({site for outlook in outlooks.values() for site in outlook.at if site.node == node.name}, key=_order)
    return [f"{site.slot}: {outlook.at[site]}" for site in sites for outlook in outlooks.values() if site in outlook.at]


def _order(site: Site) -> tuple[int, str]:
    return (0 if site.slot == "weight" else 1 if site.is_parameter else 2 if site.port is not None else 3, site.slot)


def _shape(node: Node) -> str:
    weight = node.parameter("weight")
    return "" if weight is None else " x ".join(map(str, weight.shape))


def _most(settings: Sequence[BatchnormAdaptation]) -> list[str]:
    """The largest of the numbers of samples (or of batches, where the configs count these)."""
    batches = max((s.num_bn_adaptation_steps or 0 for s in settings), default=0)
    samples = max((s.num_bn_adaptation_samples for s in settings if not s.counts_batches), default=0)
    return [f"{number} {unit}" for number, unit in ((samples, "samples"), (batches, "batches")) if number]


def _has_batchnorm(graph: Graph) -> bool:
    return any(node.op == "BatchNormalization" for node in graph.nodes)
