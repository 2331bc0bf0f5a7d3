"""What a config is going to do to a model, layer by layer, as far as that is known without data. The model stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nncf_ext.adapter import Adapter
from nncf_ext.calibration.initialization import batchnorm_settings
from nncf_ext.compress import merge_plans, plan_all
from nncf_ext.edits import Plan
from nncf_ext.graph import Graph, Node
from nncf_ext.nncf_config import NNCFConfig
from nncf_ext.report import render, rows, tables
from nncf_ext.text_table import TextTable
from nncf_ext.untouched import Untouched, untouched


@dataclass(frozen=True)
class PreviewedLayer:
    """An operator with parameters, or with something placed at its tensors.

    weight: shape of its main parameter, () where it has none. happens: in words, by tensor; nothing where it is left alone.
    """

    name: str
    operator: str
    weight: tuple[int, ...]
    happens: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """left_alone: (node or parameter, algorithm or `all`, reason). totals: dataclasses by algorithm. by_data: (who asks, what
    data decide). untouched: see `CompressionStatistics`.
    """

    plan: Plan
    layers: tuple[PreviewedLayer, ...]
    left_alone: tuple[tuple[str, str, str], ...]
    totals: Mapping[str, Any]
    by_data: tuple[tuple[str, str], ...]
    untouched: Untouched | None = None

    def tables(self) -> list[TextTable]:
        layers = [
            (layer.name, layer.operator, "x".join(map(str, layer.weight)), "\n".join(layer.happens) or "left alone")
            for layer in self.layers
        ]
        found = [rows("layers", ["layer", "operator", "weight", "what happens to it"], layers, lines=True)]
        if self.left_alone:
            found.append(rows("left alone", ["node", "by", "reason"], self.left_alone, lines=True))
        if self.untouched is not None:
            found += tables("weights that stay as they are", self.untouched)
        found += [table for name, report in self.totals.items() for table in tables(name, report)]
        if self.by_data:
            found.append(rows("decided by data, when the model is compressed", ["for", "what"], self.by_data))
        return found

    def __str__(self) -> str:
        return "\n".join(map(render, self.tables()))


def preview(adapter: Adapter, model: Any, config: NNCFConfig, example: Any) -> Preview:
    """What `compress` with these arguments would do to `model`, which stays as it is.

    ConfigError for what `compress` refuses before it looks at data; ValueError where the model does not run on `example`.
    """
    algorithms = config.algorithms()
    graph = _graph(adapter, model, example)
    plans = plan_all(algorithms, graph, config)
    plan = merge_plans(plans, graph)
    summaries = {a.algorithm: a.plan_summary(graph, plan.of(a.algorithm)) for a in algorithms}
    words: dict[str, dict[str, dict[str, None]]] = {}  # by node and slot, in the order in which it happens
    for name in dict.fromkeys([*(edit.algorithm for edit in plan), *summaries]):
        for site, text in summaries[name].at.items():
            words.setdefault(site.node, {}).setdefault(site.slot, {})[text] = None
    by_data = [(name, what) for name, plan_summary in summaries.items() for what in plan_summary.by_data]
    if any(node.op == "BatchNormalization" for node in graph.nodes):
        amounts = {settings.amount: None for settings in batchnorm_settings(algorithms) if settings.amount}
        by_data += [("batchnorm_adaptation", f"statistics of the BatchNorms, on {amount}") for amount in amounts]
    return Preview(
        plan,
        tuple(_layer(node, words.get(node.name, {})) for node in graph.nodes if node.parameters or node.name in words),
        (
            *((node, name, reason) for name, own in plans.items() for node, reason in own.skipped),
            *((node, "all", reason) for node, reason in plan.skipped[sum(len(own.skipped) for own in plans.values()) :]),
        ),
        {name: plan_summary.report for name, plan_summary in summaries.items() if plan_summary.report is not None},
        tuple(by_data),
        untouched(graph, plan),
    )


def _graph(adapter: Adapter, model: Any, example: Any) -> Graph:
    try:
        return adapter.trace(model, example).graph
    except ValueError:
        raise
    except Exception as error:  # whatever the user's forward raises
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the model does not run on inputs as input_info has them: {type(error).__name__}: {first}") from error


def _layer(node: Node, words: Mapping[str, Mapping[str, None]]) -> PreviewedLayer:
    slots: dict[str, list[str]] = {}  # those with the same words together
    for slot, texts in words.items():
        for text in texts:
            slots.setdefault(text, []).append(slot.replace(":", " "))
    main = node.parameter("weight") or next(iter(node.parameters), None)
    happens = tuple(f"{', '.join(names)}: {text}" for text, names in slots.items())
    return PreviewedLayer(node.name, node.op, () if main is None else main.shape, happens)
