"""Rounds of pruning in PyTorch: Gaussian thresholds, dead neurons, dropout, layers that would empty."""

import math

import pytest
import torch
from nncf_ext_torch import create_compressed_model
from torch import nn

from nncf_ext import ConfigError, NNCFConfig


def compressed(model, state=None, **params):
    entry = {"algorithm": "iterative_magnitude", "params": {"epochs_per_round": 1, **params}}
    return create_compressed_model(
        model, NNCFConfig.from_dict({"input_info": {"sample_size": [1, 64]}, "compression": entry}), state
    )


def net(width=256):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 10))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize(("quality", "level"), [(0.5, math.erf(0.5 / math.sqrt(2))), (1.0, 0.6827), (2.0, 0.9545)])
def test_a_round_prunes_what_is_small_for_a_gaussian(quality, level):
    """S(q) = erf(q / sqrt(2)) for a Gaussian layer."""
    ctrl, model = compressed(net(), quality=quality, rounds=1, remove_dead_neurons=False)
    ctrl.scheduler.epoch_step()
    layer = ctrl.statistics().iterative_magnitude.layers[0]
    assert layer.level == pytest.approx(level, abs=0.01)
    weight, kept = model[0]._parameters["weight"], ctrl._attached.variables(ctrl.plan.edits[0])["mask"]
    assert torch.equal(kept > 0, weight.abs() >= quality * weight.std(correction=0))


def test_equal_shares_of_what_is_left():
    """S = 0.9 in three rounds: each takes 53.5841 % of the rest."""
    ctrl, model = compressed(net(), sparsity_target=0.9, rounds=3, remove_dead_neurons=False)
    masks = [torch.ones_like(model[0]._parameters["weight"])]
    for _ in range(5):
        ctrl.scheduler.epoch_step()
        masks.append(ctrl._attached.variables(ctrl.plan.edits[0])["mask"].clone())
    left = [float(mask.float().mean()) for mask in masks]
    assert left[1] == pytest.approx(1 - 0.535841, abs=1e-4) and left[2] / left[1] == pytest.approx(1 - 0.535841, abs=1e-4)
    assert left[3:] == pytest.approx([0.1] * 3, abs=1e-4)
    assert all((later <= earlier).all() for earlier, later in zip(masks, masks[1:], strict=False))


def test_dropout_falls_with_the_root_of_the_connections_and_after_a_resume(tmp_path):
    ctrl, model = compressed(net(), sparsity_target=0.75, rounds=1, remove_dead_neurons=False)
    assert model[2].p == 0.5
    ctrl.scheduler.epoch_step()
    assert model[2].p == pytest.approx(0.25, abs=1e-3)
    ctrl.save_checkpoint(tmp_path / "x.safetensors")
    resumed, other = compressed(net(), ctrl.get_compression_state(), sparsity_target=0.75, rounds=1, remove_dead_neurons=False)
    resumed.load_checkpoint(tmp_path / "x.safetensors")
    assert other[2].p == pytest.approx(model[2].p)


def test_dead_neurons_leave_the_stripped_model():
    model = net(16)
    with torch.no_grad():
        model[0].weight[3] *= 1e-3  # no input is left
        model[3].weight[:, 5] *= 1e-3  # no output is left
    ctrl, model = compressed(model, sparsity_target=0.4, rounds=1)
    ctrl.scheduler.epoch_step()
    assert ctrl.statistics().iterative_magnitude.dead_neurons == 2
    x = torch.randn(7, 64)
    model.eval()
    plain = ctrl.strip()
    assert plain[0].weight.shape == (14, 64) and plain[3].weight.shape == (128, 14)
    torch.testing.assert_close(plain(x), model(x))


def test_a_layer_that_would_empty():
    model = net()
    with torch.no_grad():
        model[5].weight.fill_(0.5)
        model[5].weight[0] = -0.5
    ctrl, model = compressed(model, quality=5.0, rounds=1)
    with pytest.raises(ConfigError, match=r"round 1 leaves none of the \d+ weights of .*, expected at least one"):
        ctrl.scheduler.epoch_step()
    assert all(ctrl._attached.variables(edit)["mask"].all() for edit in ctrl.plan)
