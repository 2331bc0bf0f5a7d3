"""Averages as training scripts keep them: over every floating-point tensor of the state dict. Masks are not averaged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nncf_ext import NNCFConfig

SCHEDULE = {"sparsity_target": 0.8, "sparsity_target_epoch": 3, "sparsity_freeze_epoch": 4}
SIZE = 16 * 64 + 64 * 4


class OfStateDict:
    """As ultralytics' and timm's newer one: floating-point tensors are averaged, all others are copied."""

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model)

    def update_parameters(self, model: nn.Module) -> None:
        for ours, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            ours.lerp_(theirs, 0.1) if ours.is_floating_point() else ours.copy_(theirs)


def of_parameters(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def trained(entry: Any, average: Callable[[nn.Module], Any]) -> tuple[Any, nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 16]}, "compression": entry})
    ctrl, model = create_compressed_model(model, config)
    ema = average(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(6):
        ctrl.scheduler.epoch_step()
        for _ in range(5):
            ctrl.scheduler.step()
            optimizer.zero_grad()
            (F.mse_loss(model(torch.randn(32, 16)), torch.zeros(32, 4)) + ctrl.loss()).backward()
            optimizer.step()
            ema.update_parameters(model)
    return ctrl, model, ema.module


@pytest.mark.parametrize("average", [OfStateDict, of_parameters])
@pytest.mark.parametrize(
    "entry",
    [
        {"algorithm": "magnitude_sparsity", "params": SCHEDULE},
        {
            "algorithm": "dynamic_sparse_training",
            "params": {"method": "rigl", "sparsity_target": 0.8, "update_interval": 5, "end": 25},
        },
        {"algorithm": "iterative_magnitude", "params": {"sparsity_target": 0.8, "rounds": 2, "epochs_per_round": 2}},
    ],
    ids=lambda value: value["algorithm"],
)
def test_an_averaged_model_is_exactly_as_sparse_as_asked(entry: Any, average: Callable[[nn.Module], Any]) -> None:
    ctrl, model, ema = trained(entry, average)
    masks = {name: mask for name, mask in model.named_buffers() if name.endswith("mask")}
    assert masks and all(mask.dtype == torch.bool and torch.equal(mask, ema.get_buffer(name)) for name, mask in masks.items())
    plain = ctrl.strip_model(ema, do_copy=True)
    zeros = sum(int((p == 0).sum()) for name, p in plain.named_parameters() if name.endswith("weight"))
    assert zeros == sum(int((~mask).sum()) for mask in masks.values()) >= 0.8 * SIZE - 2
    x = torch.randn(8, 16)
    torch.testing.assert_close(plain(x), ema(x))
    assert not torch.equal(plain[0].weight, ctrl.strip_model(model, do_copy=True)[0].weight)


def test_masks_of_older_files_are_read() -> None:
    """They were floats."""
    ctrl, model, _ = trained({"algorithm": "magnitude_sparsity", "params": SCHEDULE}, of_parameters)
    state = {name: value.float() if value.dtype == torch.bool else value for name, value in model.state_dict().items()}
    other = copy.deepcopy(model)
    for mask in other.buffers():
        mask.fill_(True)
    other.load_state_dict(state)
    x = torch.randn(8, 16)
    assert torch.equal(other(x), model(x)) and all(mask.dtype == torch.bool for mask in other.buffers())
