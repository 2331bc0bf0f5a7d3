"""Torch-Pruning 1.6 (DepGraph): which channels it would take out of a model together. In a process of its own.

    python -m benchmarks.peers.torch_pruning MODEL...

Prints, by model, CPU seconds and groups; a group is a list of [layer, "out" or "in", indices, channels of its first layer].
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning import ops

from benchmarks import models_torch
from benchmarks.contest import Result, report_result

INPUTS: dict[str, Any] = {"bert": {"input_ids": torch.arange(8)[None]}, "vit": {"pixel_values": torch.zeros(1, 3, 64, 64)}}


def groups_of(model: nn.Module, example: Any) -> list[list[tuple[str, str, list[int], list[int]]]]:
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(model, example, verbose=False)
    names = {module: name for name, module in model.named_modules()} | {p: name for name, p in model.named_parameters()}
    found = []
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear, nn.Embedding]):
        members = []
        for dependency, indices in group:
            module = dependency.target.module
            if dependency.target.type in (ops.OPTYPE.ELEMENTWISE, ops.OPTYPE.RESHAPE, ops.OPTYPE.CONCAT, ops.OPTYPE.SPLIT):
                continue
            if module in names:
                side = "out" if graph.is_out_channel_pruning_fn(dependency.handler) else "in"
                roots = [getattr(index, "root_idx", index) for index in indices]
                members.append((names[module], side, [getattr(index, "idx", index) for index in indices], roots))
        found.append(members)
    return found


def measure() -> Result:
    results = {}
    for name in sys.argv[1:]:
        model = getattr(models_torch, name)().eval()
        example = INPUTS.get(name, torch.zeros(1, 3, 64, 64))
        groups: list[Any] = []
        seconds = []
        for _ in range(5):
            start = time.process_time()
            groups = groups_of(model, example)
            seconds.append(time.process_time() - start)
        results[name] = {"seconds": min(seconds), "groups": groups}
    return results


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    report_result(measure)
