"""Every free channel of real models may go: what `channel_groups` says is what `remove_channels` needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from nncf_ext_torch.shrink import remove_channels
from nncf_ext_torch.trace import ExampleInput, trace
from torch import nn

from benchmarks import models_torch
from nncf_ext.edits import Removal
from nncf_ext.graph import Site
from nncf_ext.removal import joint
from tests.torch import test_torch_shrink as by_hand

channels = pytest.importorskip("nncf_ext.channels")

IMAGE = ExampleInput((torch.randn(2, 3, 32, 32),))
PIXELS = ExampleInput((), {"pixel_values": IMAGE.args[0]})
TOKENS = ExampleInput((), {"input_ids": torch.randint(0, 1000, (2, 6))})
SMALL: dict[str, tuple[Callable[[], nn.Module], ExampleInput]] = {
    name: (build, by_hand.IMAGE)
    for name, build in {
        "plain": by_hand.Plain,
        "residual": by_hand.Residual,
        "depthwise": by_hand.Separable,
        "two_filters_per_channel": lambda: by_hand.Separable(2),
        "dense": by_hand.Dense,
        "shared": by_hand.Shared,
        "constants": by_hand.Constants,
        "shuffle": by_hand.Shuffle,
        "attention": by_hand.Attention,
    }.items()
}
WHOLE: dict[str, tuple[Callable[[], nn.Module], ExampleInput]] = {
    "resnet18": (models_torch.resnet18, IMAGE),
    "mobilenet_v2": (models_torch.mobilenet_v2, IMAGE),
    "hf_resnet": (models_torch.hf_resnet, PIXELS),
    "bert": (lambda: models_torch.bert(2, 128), TOKENS),
    "vit": (lambda: models_torch.vit(2, 128, image_size=32), PIXELS),
    "llama": (lambda: models_torch.llama(2, 128), TOKENS),
    "gpt2": (lambda: by_hand.gpt2()[0], by_hand.TOKENS),
}


def a_third_of(groups: Iterable[Any]) -> list[tuple[Site, int, tuple[int, ...], str]]:
    """Of each free group random units that go: per member the indices to keep."""
    rng, found = np.random.default_rng(0), []
    for group in groups:
        if group.blocked is None:
            gone = set(rng.choice(group.size, max(1, group.size // 3), replace=False).tolist())
            for member in group.members:
                keep = tuple(index for index, unit in enumerate(member.units) if unit not in gone)
                found.append((member.site, member.axis, keep, member.role))
    return found


@pytest.mark.parametrize("name", [*SMALL, *WHOLE])
def test_every_free_group_can_lose_channels(name: str) -> None:
    build, example = {**SMALL, **WHOLE}[name]
    torch.manual_seed(0)
    before = by_hand.lively(build()).eval()
    graph = trace(before, example).graph
    removals = joint(Removal(site, axis, keep) for site, axis, keep, _ in a_third_of(channels.channel_groups(graph)))
    with torch.no_grad():
        for site, axis, keep, role in a_third_of(channels.channel_groups(graph)):
            parameter = graph[site.node].parameter(site.slot)
            assert parameter is not None
            tensor = dict(before.named_parameters()).get(parameter.name)
            if tensor is not None and role != "input":
                gone = [index for index in range(tensor.shape[axis]) if index not in keep]
                tensor.index_fill_(axis, torch.tensor(gone), 0)
    after = copy.deepcopy(before)
    remove_channels(after, removals, trace(after, example))
    by_hand.assert_same(before, after, example)
    by_hand.check_life(after, example)
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())
