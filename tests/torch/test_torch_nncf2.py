"""Scripts of NNCF 2.x: the order in which they call things, the states that their checkpoints hold, the names that they read."""

import io

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import CheckpointError

PRUNED = {"pruning_init": 0.5, "params": {"prune_first_conv": True}}


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))


def created(algorithm, state=None, net=None, **entry):
    config = {"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": {"algorithm": algorithm, **entry}}
    config = register_default_init_args(NNCFConfig.from_dict(config), [(torch.rand(2, 1, 8, 8), torch.zeros(2))])
    return create_compressed_model(net or convolutions(), config, state)


def state_of_nncf(algorithm, epoch, step, **scheduler):
    saved = {"loss_state": None, "scheduler_state": {"current_step": step, "current_epoch": epoch, **scheduler}}
    return {"builder_state": {algorithm: {}}, "ctrl_state": {algorithm: {**saved, "compression_stage": 1}}}


@pytest.mark.parametrize(
    "algorithm, entry", [("magnitude_sparsity", {"sparsity_init": 0.5}), ("filter_pruning", PRUNED), ("quantization", {})]
)
def test_export_after_preparation(algorithm, entry, tmp_path):
    """The same file as before it, whatever was made plain in place."""
    ctrl, model = created(algorithm, **entry)
    ctrl.export_model(tmp_path / "before.onnx")
    statistics, rate = str(ctrl.statistics()), getattr(ctrl, "compression_rate", None)
    ctrl.prepare_for_export()
    ctrl.export_model(tmp_path / "after.onnx")
    assert (tmp_path / "after.onnx").read_bytes() == (tmp_path / "before.onnx").read_bytes()
    ctrl.pack(tmp_path / "model.ncp")
    ctrl.save_checkpoint(tmp_path / "model.safetensors")
    assert (str(ctrl.statistics()), getattr(ctrl, "compression_rate", None)) == (statistics, rate)
    assert ctrl.model is model and ctrl.strip(do_copy=False) is model
    again, _ = created(algorithm, **entry)
    again.load_checkpoint(tmp_path / "model.safetensors")
    assert again.get_compression_state() == ctrl.get_compression_state()
    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(again.strip()(x), ctrl.strip()(x), rtol=0, atol=0)


def test_sparsity_goes_on_where_nncf_was():
    entry = {"params": {"sparsity_target": 0.9, "sparsity_target_epoch": 9, "power": 1, "sparsity_freeze_epoch": 20}}
    ctrl, _ = created("magnitude_sparsity", state_of_nncf("magnitude_sparsity", 4, 99), **entry)
    assert (ctrl.scheduler.current_epoch, ctrl.scheduler.current_step) == (4, 99)
    assert ctrl.get_state()["algorithms"]["magnitude_sparsity"]["state"]["level"] == pytest.approx(0.4)
    assert ctrl.compression_stage().name == "PARTIALLY_COMPRESSED"
    ctrl.scheduler.epoch_step()
    assert ctrl.compression_rate == pytest.approx(0.5, abs=2e-3)

    other, _ = created("magnitude_sparsity", **entry)
    other.load_state(state_of_nncf("magnitude_sparsity", 4, 99)["ctrl_state"])
    third, _ = created("magnitude_sparsity", **entry)
    third.scheduler.load_state({"current_step": 99, "current_epoch": 4})
    for controller in (other, third):
        controller.scheduler.epoch_step()
        assert controller.get_compression_state() == ctrl.get_compression_state()


def test_other_algorithms_go_on_where_nncf_was():
    pruning, _ = created(
        "filter_pruning", state_of_nncf("filter_pruning", 3, 30), params={"pruning_steps": 4, "prune_first_conv": True}
    )
    assert pruning.pruning_level == pytest.approx(0.5) and pruning.compression_stage().name == "FULLY_COMPRESSED"
    staged = {"activations_quant_start_epoch": 3, "weights_quant_start_epoch": 5}
    quantizers, _ = created("quantization", state_of_nncf("quantization", 3, 30), params=staged)
    assert quantizers.get_state()["algorithms"]["quantization"]["state"]["enabled"] == {"weights": False, "activations": True}
    adaptive = state_of_nncf("rb_sparsity", 3, 30, num_bad_epochs=1, current_sparsity_level=0.25)
    rb, _ = created("rb_sparsity", adaptive, params={"schedule": "adaptive", "patience": 3})
    assert {"level": 0.25, "bad_epochs": 1}.items() <= rb.get_state()["algorithms"]["rb_sparsity"]["state"].items()
    assert all(rb.variable_values(edit)["level"] == np.float32(0.25) for edit in rb.plan)


def test_a_state_as_plain_torch_saves_it():
    entry = {"sparsity_init": 0.2, "params": {"sparsity_target_epoch": 4, "sparsity_target": 0.6, "power": 1}}
    ctrl, model = created("magnitude_sparsity", **entry)
    for _ in range(3):
        ctrl.scheduler.epoch_step()
        ctrl.scheduler.step()
    file = io.BytesIO()
    torch.save({"controller": ctrl.state_dict(), "scheduler": ctrl.scheduler.state_dict(), "model": model.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other, resumed = created("magnitude_sparsity", **entry)
    resumed.load_state_dict(saved["model"])
    other.load_state_dict(saved["controller"])
    assert other.get_compression_state() == ctrl.get_compression_state()
    assert other.compression_rate == ctrl.compression_rate
    other.scheduler.load_state_dict({**saved["scheduler"], "current_epoch": 1})
    assert other.scheduler.current_epoch == 1


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "this is no compression state"),
        (None, "this is no compression state"),
        (state_of_nncf("rb_sparsity", 1, 1), r"is of \['rb_sparsity'\], this model is compressed with \['magnitude_sparsity'\]"),
        ({"ctrl_state": {"scheduler_state": {}, "algorithms": {"magnitude_sparsity": {}}}}, "this is no compression state"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state, message):
    ctrl, _ = created("magnitude_sparsity", sparsity_init=0.5)
    before = ctrl.get_compression_state()
    for load in (ctrl.load_state, ctrl.load_state_dict):
        with pytest.raises(CheckpointError, match=message):
            load(state)
    assert ctrl.get_compression_state() == before


def test_a_clock_that_is_none_changes_nothing():
    ctrl, _ = created("magnitude_sparsity", sparsity_init=0.5)
    before = ctrl.get_compression_state()
    for load in (ctrl.load_state, ctrl.load_state_dict):
        with pytest.raises(CheckpointError, match="scheduler_state: found"):
            load({**before, "ctrl_state": {**before["ctrl_state"], "scheduler_state": {"current_epoch": 1}}})
    with pytest.raises(CheckpointError, match="scheduler_state: found"):
        ctrl.scheduler.load_state({"epoch": "one"})
    assert ctrl.get_compression_state() == before


def test_a_state_of_another_plan_is_told():
    ctrl, _ = created("magnitude_sparsity")
    other, _ = created("magnitude_sparsity", ignored_scopes=["{re}Conv2d.2"])
    with pytest.raises(CheckpointError, match="the state was saved with another plan"):
        other.load_state_dict(ctrl.state_dict())
