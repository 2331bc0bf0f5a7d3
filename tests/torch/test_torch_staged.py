"""Quantizers that are switched while a torch model trains: in eager mode and compiled, with functions between the modules."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.export import integer_operators

STAGED = {"weights_quant_start_epoch": 1, "activations_quant_start_epoch": 2}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        return self.head(torch.relu(self.bn(self.body(y)) + y).mean((2, 3)))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(8, 3, 8, 8), torch.randn(8, 4)) for _ in range(2)]


def compressed(**keys: Any) -> tuple[Any, nn.Module]:
    torch.manual_seed(1)
    entry = {"algorithm": "quantization", "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}, **keys}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": entry})
    return create_compressed_model(Net(), register_default_init_args(config, batches()))


def values(ctrl: Any) -> dict[str, np.ndarray]:
    return {f"{edit.key}.{name}": np.array(value) for edit in ctrl.plan for name, value in ctrl.variable_values(edit).items()}


def train(ctrl: Any, model: nn.Module, forward: Any, epochs: int = 4) -> list[float]:
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05), []
    for _ in range(epochs):
        ctrl.scheduler.epoch_step()
        for x, y in batches():
            ctrl.scheduler.step()
            loss = nn.functional.mse_loss(forward(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_model_follows_the_stages() -> None:
    ctrl, model = compressed(params=STAGED)
    eager = train(ctrl, model, model)
    ctrl, model = compressed(params=STAGED)
    assert train(ctrl, model, torch.compile(model)) == pytest.approx(eager, rel=1e-4)
    ctrl, model = compressed()
    assert train(ctrl, model, model)[0] != pytest.approx(eager[0], rel=1e-4)  # quantized from the first step on


def test_ranges_are_those_of_the_epoch_in_which_a_group_begins() -> None:
    ctrl, model = compressed(params=STAGED)
    first = values(ctrl)
    with torch.no_grad():
        for parameter in (model.stem.weight, model.stem.bias, model.body.weight, model.body.bias, model.bn.weight):
            parameter.mul_(2)
    ctrl.scheduler.epoch_step()
    assert all((value == first[key]).all() for key, value in values(ctrl).items())
    ctrl.scheduler.epoch_step()
    for key, value in values(ctrl).items():
        doubled = "|weight|" in key and "Linear" not in key
        np.testing.assert_allclose(value, first[key] * (2 if doubled else 1), rtol=1e-6, err_msg=key)
    ctrl.scheduler.epoch_step()
    relu = next(key for key in first if "relu_0|output" in key)
    np.testing.assert_allclose(values(ctrl)[relu], 2 * first[relu], rtol=0.02)  # the weights are quantized by now
    started = values(ctrl)
    ctrl.scheduler.epoch_step()
    assert all((value == started[key]).all() for key, value in values(ctrl).items()), "ranges start once"


def test_commands_of_the_controller(tmp_path) -> None:
    ctrl, model = compressed()
    x = batches()[0][0]
    model.eval()
    with torch.no_grad():
        quantized = model(x)
        ctrl.disable_weight_quantization()
        ctrl.disable_activation_quantization()
        torch.testing.assert_close(model(x), ctrl.strip()(x))
        ctrl.enable_activation_quantization()
        between = model(x)
        ctrl.enable_weight_quantization()
        assert torch.equal(model(x), quantized) and not torch.equal(between, quantized)
    ctrl.disable_activation_quantization()
    parity = ctrl.export_model(tmp_path / "weights_only.onnx")
    assert parity.lsb <= 1
    assert "QuantizeLinear" not in integer_operators(tmp_path / "weights_only.onnx")


def test_init_range_starts_all_ranges_anew() -> None:
    ctrl, _ = compressed(preset="mixed")
    before = values(ctrl)
    for edit in ctrl.plan:
        for name, value in ctrl.variable_values(edit).items():
            ctrl._attached.assign(edit, name, 3 * value)
    ctrl.init_range()
    for key, value in values(ctrl).items():
        np.testing.assert_allclose(value, before[key], rtol=1e-5, atol=1e-7, err_msg=key)
    with pytest.raises(AttributeError, match="has no 'init_ranges'"):
        ctrl.init_ranges()


def test_a_copy_is_switched_by_itself() -> None:
    ctrl, model = compressed()
    x = batches()[0][0]
    other = copy.deepcopy(model)
    ctrl.disable_weight_quantization()
    assert not torch.equal(model.eval()(x), other.eval()(x))
