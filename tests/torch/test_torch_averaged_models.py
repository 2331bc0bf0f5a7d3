"""Averages as training scripts keep them: over every floating-point tensor of the state dict. Masks are not averaged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model, register_default_init_args
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


class OfFloats(OfStateDict):
    """As ultralytics' newer one: tensors that are not floating-point stay as they were in the beginning."""

    def update_parameters(self, model: nn.Module) -> None:
        theirs = model.state_dict()
        for name, ours in self.module.state_dict().items():
            if ours.is_floating_point():
                ours.lerp_(theirs[name], 0.1)


class OfAll(OfStateDict):
    """As timm's `ModelEmaV2` and Lightning's callbacks: of every tensor, whatever it is."""

    def update_parameters(self, model: nn.Module) -> None:
        for ours, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            ours.copy_(0.9 * ours + 0.1 * theirs)


def of_buffers(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


def of_buffers_one_by_one(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, avg_fn=lambda ours, theirs, count: 0.9 * ours + 0.1 * theirs, use_buffers=True)


AVERAGES = [OfStateDict, OfFloats, OfAll, of_buffers, of_buffers_one_by_one]


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


@pytest.mark.parametrize("average", [*AVERAGES, of_parameters])
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
    saved = ema.state_dict()
    assert masks and all(mask.dtype == torch.bool and torch.equal(mask, saved[name]) for name, mask in masks.items())
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


@pytest.mark.parametrize("average", AVERAGES)
def test_codes_are_not_averaged(average: Callable[[nn.Module], Any]) -> None:
    ctrl, model, ema = trained({"algorithm": "weight_clustering", "params": {"clusters": 16}}, average)
    codes = {name: value for name, value in model.named_buffers() if name.endswith("codes")}
    saved = ema.state_dict()
    assert codes and all(torch.equal(value, saved[name]) for name, value in codes.items())
    x = torch.randn(8, 16)
    torch.testing.assert_close(ctrl.strip_model(ema, do_copy=True)(x), ema(x))


def test_copies_that_are_no_averages_keep_their_masks() -> None:
    """A snapshot, one that was loaded, one that is trained by itself."""
    ctrl, model, _ = trained({"algorithm": "magnitude_sparsity", "params": SCHEDULE}, of_parameters)
    x = torch.randn(8, 16)
    snapshot, loaded, other = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    expected = model.eval()(x).detach()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    F.mse_loss(other.train()(x), torch.zeros(8, 4)).backward()
    for mask in (mask for name, mask in model.named_buffers() if name.endswith("mask")):
        mask.zero_()
    assert torch.equal(snapshot.half().float().eval()(x).round(decimals=2), expected.round(decimals=2))
    loaded.load_state_dict(state)
    assert torch.equal(loaded.eval()(x), expected)
    optimizer.step()
    assert all(mask.any() for mask in other.buffers()) and other.eval()(x).std() > 0
    for mask in other.buffers():
        assert torch.equal(mask, dict(loaded.named_buffers())[next(n for n, m in other.named_buffers() if m is mask)])
    with torch.no_grad():
        for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 0.5)  # after a resume the average goes on
    assert not any(mask.any() for name, mask in loaded.state_dict().items() if name.endswith("mask"))


def test_the_first_forward_of_an_average_has_the_right_masks() -> None:
    """In that a model with edited functions is run once to see what it calls, and nothing of it is kept."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) + self.second(x)

    x = torch.randn(8, 16)
    entry = [{"algorithm": "magnitude_sparsity", "params": SCHEDULE}, {"algorithm": "quantization"}]
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entry}), [(x, x)])
    ctrl, model = create_compressed_model(Sum(), config)
    ema = OfFloats(model)
    for _ in range(5):
        ctrl.scheduler.epoch_step()
    ema.update_parameters(model)
    ema.module.eval()(x)
    found = dict(ema.module.named_buffers())
    assert all(torch.equal(mask, found[name]) and not mask.all() for name, mask in model.named_buffers() if name.endswith("mask"))
