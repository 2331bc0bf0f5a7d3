"""Which channels go together, beside what Torch-Pruning's DepGraph says, and how long it takes to find out.

    python -m benchmarks.channel_groups [--quick]

Torch-Pruning runs in .venv-peers.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from nncf_ext_torch.trace import ExampleInput, trace

from benchmarks import models_torch
from benchmarks.contest import machine, run_worker, show, write_section
from nncf_ext.channels.groups import ChannelGroup, channel_groups
from nncf_ext.graph import Graph

IMAGE = ExampleInput((torch.zeros(1, 3, 64, 64),))
MODELS = {
    "resnet18": ("ResNet-18", IMAGE),
    "resnet50": ("ResNet-50", IMAGE),
    "mobilenet_v2": ("MobileNetV2", IMAGE),
    "vit": ("ViT, 4 layers", ExampleInput((), {"pixel_values": torch.zeros(1, 3, 64, 64)})),
    "bert": ("BERT, 4 layers", ExampleInput((), {"input_ids": torch.arange(8)[None]})),
}
HEADER = ("", "groups (blocked)", "groups of Torch-Pruning", "its channels: the same slices", "part of a unit", "other slices")
Slice = tuple[str, str, int]  # layer, "out" or "in", index


def units_of(graph: Graph, groups: tuple[ChannelGroup, ...]) -> Iterator[frozenset[Slice]]:
    """Each unit as slices of layers; a bias and a scale count as the layer's output."""
    for group in groups:
        slices: list[set[Slice]] = [set() for _ in range(group.size)]
        for member in group.members:
            parameter = graph[member.site.node].parameter(member.site.slot)
            assert parameter is not None
            layer, _, attribute = parameter.name.rpartition(".")
            name = layer if attribute in ("weight", "bias") else parameter.name
            for index, unit in enumerate(member.units):
                if unit >= 0:
                    slices[unit].add((name, "in" if member.role == "input" else "out", index))
        yield from map(frozenset, slices)


def compared(graph: Graph, groups: tuple[ChannelGroup, ...], theirs: list[Any]) -> Counter[str]:
    """Of the channels of Torch-Pruning's groups: how many are the same slices as a unit, a part of one, or others."""
    unit_of = {each: unit for unit in units_of(graph, groups) for each in unit}
    counts: Counter[str] = Counter()
    for members in theirs:
        channels: dict[int, set[Slice]] = {}
        for layer, side, indices, roots in members:
            for index, root in zip(indices, roots, strict=True):
                channels.setdefault(root, set()).add((layer, side, index))
        for slices in channels.values():
            unit = unit_of.get(min(slices), frozenset())
            counts["same" if unit == slices else "part" if unit > slices else "other"] += 1
    return counts


def measured(name: str, rounds: int) -> tuple[Graph, tuple[ChannelGroup, ...], float, float]:
    """(graph, groups, best CPU seconds of tracing and analysis, of the analysis alone)."""
    model, example = getattr(models_torch, name)().eval(), MODELS[name][1]
    whole, alone = [], []
    for _ in range(rounds):
        start = time.process_time()
        graph = trace(model, example).graph
        traced = time.process_time()
        groups = channel_groups(graph)
        end = time.process_time()
        whole.append(end - start)
        alone.append(end - traced)
    return graph, groups, min(whole), min(alone)  # pyright: ignore[reportPossiblyUnbound]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="one round instead of five; docs/benchmarks.md stays as it is")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    theirs = run_worker(".venv-peers", "benchmarks.peers.torch_pruning", *MODELS)
    rows, times = [], []
    for name, (title, _) in MODELS.items():
        graph, groups, whole, alone = measured(name, 1 if options.quick else 5)
        ours = f"{len(groups)} ({sum(group.blocked is not None for group in groups)})"
        times.append([title, f"{whole:.2f}", f"{alone:.2f}", "fails" if "error" in theirs else f"{theirs[name]['seconds']:.2f}"])
        if "error" in theirs:
            rows.append([title, ours, theirs["error"], "", "", ""])
            continue
        counts = compared(graph, groups, theirs[name]["groups"])
        found = [str(counts[key]) for key in ("same", "part", "other")]
        rows.append([title, ours, str(len(theirs[name]["groups"])), *found])
    text = "\n".join(
        [
            f"{machine()}; one thread.\n",
            show("Groups, and what Torch-Pruning's channels are in them", HEADER, rows),
            show("CPU seconds, best of five", ("", "trace and analysis", "analysis alone", "Torch-Pruning"), times),
        ]
    )
    if not options.quick:
        write_section("channel_groups", text)


if __name__ == "__main__":
    main()
