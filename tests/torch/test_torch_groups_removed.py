"""Every free channel of real models may go: what `channel_groups` says is what `remove_channels` needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model
from nncf_ext_torch.shrink import remove_channels
from nncf_ext_torch.trace import ExampleInput, trace
from torch import nn

from benchmarks import models_torch
from nncf_ext import NNCFConfig
from nncf_ext.channels.groups import ChannelGroup, channel_groups
from nncf_ext.channels.removal import merge_removals
from nncf_ext.edits import Removal
from nncf_ext.graph import Site
from tests.torch import test_torch_shrink as by_hand

pytestmark = pytest.mark.filterwarnings("ignore:.*its config cannot say which channels or heads are left:UserWarning")

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


def a_third_of(groups: Iterable[ChannelGroup]) -> list[tuple[Site, int, tuple[int, ...], str]]:
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
    removals = merge_removals(Removal(site, axis, keep) for site, axis, keep, _ in a_third_of(channel_groups(graph)))
    with torch.no_grad():
        for site, axis, keep, role in a_third_of(channel_groups(graph)):
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


@pytest.mark.filterwarnings("ignore:.*prunes nothing in 2 of 5 groups")  # BERT's heads: two in a layer, of which one would stay
@pytest.mark.parametrize("name", [pytest.param("hf_resnet", marks=pytest.mark.slow), "bert"])
def test_prune_strip_train_save_and_export(name: str, tmp_path: Path) -> None:
    """In float, where the file can be compared to the last digits with the masked model."""
    build, example = WHOLE[name]
    inputs = {"sample_size": [2, 3, 32, 32], "filler": "random", "keyword": "pixel_values"}
    if name == "bert":
        inputs = {"sample_size": [2, 6], "type": "long", "filler": "ones", "keyword": "input_ids"}
    pruning = {"algorithm": "filter_pruning", "pruning_init": 0.4, "params": {"pruning_target": 0.4, "prune_first_conv": True}}
    torch.manual_seed(0)
    model = by_hand.lively(build())
    before = sum(p.numel() for p in model.parameters())
    ctrl, _ = create_compressed_model(model, NNCFConfig.from_dict({"input_info": inputs, "compression": pruning}))
    smaller = ctrl.strip()
    by_hand.assert_same(model, smaller, example)
    by_hand.check_life(copy.deepcopy(smaller), example)
    size = sum(p.numel() for p in smaller.parameters())
    assert size < 0.85 * before
    parity = ctrl.export_model(tmp_path / "smaller.onnx")
    with torch.no_grad():
        largest = max(float(output.abs().max()) for output in by_hand.outputs(model.eval(), example))
    assert parity.difference < 1e-4 * largest
    assert (tmp_path / "smaller.onnx").stat().st_size < 1.2 * 4 * size + 200_000
