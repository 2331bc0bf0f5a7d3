"""Scripts of NNCF 2.x: the order in which they call things, the states that their checkpoints hold, the names that they read."""

import io

import nncf_ext_torch
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import CheckpointError
from nncf_ext.report import prepare_for_tensorboard
from tests.nncf2_states import check_other_algorithms_go_on, check_sparsity_goes_on, state_of_nncf

PRUNED = {"pruning_init": 0.5, "params": {"prune_first_conv": True}}


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))


def created(algorithm, state=None, net=None, **entry):
    config = {"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": {"algorithm": algorithm, **entry}}
    config = register_default_init_args(NNCFConfig.from_dict(config), [(torch.rand(2, 1, 8, 8), torch.zeros(2))])
    return create_compressed_model(net or convolutions(), config, state)


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
    check_sparsity_goes_on(created)


def test_other_algorithms_go_on_where_nncf_was():
    check_other_algorithms_go_on(created)


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


def test_names_that_scripts_read_of_sparsity():
    entry = {"sparsity_init": 0.25, "params": {"sparsity_target": 0.75, "sparsity_target_epoch": 7, "sparsity_freeze_epoch": 8}}
    ctrl, model = created("magnitude_sparsity", **entry)
    scheduler = ctrl.scheduler
    assert (scheduler.current_sparsity_level, scheduler.initial_level, scheduler.target_level) == (0.25, 0.25, 0.75)
    assert (scheduler.target_epoch, scheduler.freeze_epoch) == (7, 8)
    with pytest.raises(AttributeError, match="current_pruning_level"):
        _ = scheduler.current_pruning_level
    first, second = ctrl.sparsified_module_info
    assert first.module is model[0] and second.module is model[2]
    assert first.module_node_name == "Sequential/Conv2d[0]/conv2d_0"
    zeros = (first.operand.apply_binary_mask(torch.ones(16, 1, 3, 3)) == 0).sum().item()
    assert zeros == round(144 * first.sparsity_level) and not first.operand.frozen
    summary = ctrl.statistics().magnitude_sparsity.model_statistics.sparsified_layers_summary
    assert [layer.weight_shape for layer in summary] == [[16, 1, 3, 3], [4, 16, 3, 3]]
    assert [layer.weight_percentage for layer in summary] == [20, 80]
    for call in (
        lambda: ctrl.set_sparsity_level(0.5, second, False),
        lambda: ctrl.set_sparsity_level(0.5, target_sparsified_module_info=second),
        lambda: ctrl.set_sparsity_level(0.5, layer_info=second.name, run_batchnorm_adaptation=True),
    ):
        ctrl.set_sparsity_level(0.25)
        call()
        assert ctrl.sparsified_module_info[1].sparsity_level == 0.5
    logged = prepare_for_tensorboard(ctrl.statistics())
    assert logged["magnitude_sparsity/sparsity_level_for_sparsified_layers"] == ctrl.compression_rate
    assert logged["magnitude_sparsity/sparsity_level_for_model"] == logged["magnitude_sparsity/sparsity_level"]


def test_names_that_scripts_read_of_other_algorithms():
    rb, _ = created("rb_sparsity", sparsity_init=0.1)
    rb.compression_rate = 0.65
    assert rb.compression_rate == rb.loss.target_sparsity_rate == 0.65 and rb.current_sparsity_level == 0
    assert (rb.loss.p, rb.loss.disabled) == (0.05, False)
    pruning, _ = created("filter_pruning", **PRUNED)
    report = pruning.statistics().filter_pruning
    assert pruning.scheduler.current_pruning_level == report.current_pruning_level == 0.5
    assert report.model_statistics.pruned_layers_summary[0].filter_pruning_level == 0.5
    logged = prepare_for_tensorboard(pruning.statistics())
    assert logged["filter_pruning/algo_current_pruning_level"] == 0.5
    assert logged["filter_pruning/model_filters_pruning_level"] == 8 / 20
    quantizers, _ = created("quantization", params={"activations_quant_start_epoch": 1, "weights_quant_start_epoch": 0})
    report = quantizers.statistics().quantization
    assert (report.wq_counter.total_count, report.wq_counter.num_symmetric, report.wq_counter.num_per_channel) == (2, 2, 2)
    assert (report.num_wq_per_bitwidth, report.num_aq_per_bitwidth) == ({8: 2}, {8: 2})
    assert (report.wq_counter.num_signed, report.wq_counter.num_unsigned) == (2, 0)
    assert (report.aq_counter.num_signed, report.aq_counter.num_unsigned) == (0, 2), "images, and what a ReLU gives"
    assert report.ratio_of_enabled_quantizations == 50


def test_children_of_a_controller():
    config = {
        "input_info": {"sample_size": [1, 1, 8, 8]},
        "compression": [
            {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5},
            {"algorithm": "knowledge_distillation", "type": "mse"},
        ],
    }
    ctrl, model = create_compressed_model(convolutions(), NNCFConfig.from_dict(config))
    masks, teacher = ctrl.child_ctrls
    assert (masks.name, teacher.name) == ("magnitude_sparsity", "knowledge_distillation")
    assert masks.model is model and masks.current_sparsity_level == 0.5
    assert list(masks.statistics().reports) == ["magnitude_sparsity"]
    assert teacher.compression_stage().name == "FULLY_COMPRESSED"
    with pytest.raises(AttributeError, match="knowledge_distillation has no 'set_sparsity_level'"):
        _ = teacher.set_sparsity_level
    assert ctrl.scheduler.child_schedulers[0].current_sparsity_level == masks.scheduler.current_sparsity_level == 0.5
    assert len(ctrl.loss.child_losses) == 2
    with pytest.raises(AttributeError, match="magnitude_sparsity tells no 'epoch_step' here: see controller.scheduler"):
        masks.scheduler.epoch_step()


def test_schedules_of_what_nncf_has_not():
    """Levels and ends, where there are such things; GraNet's rises by the step, AC/DC's by the phase."""
    level = {"sparsity_target": 0.75}
    scheduler = created("dynamic_sparse_training", params={**level, "end": 100})[0].scheduler
    assert (scheduler.current_sparsity_level, scheduler.initial_level, scheduler.target_level, scheduler.end) == (
        0.75,
        0.75,
        0.75,
        100,
    )
    ctrl, _ = created("dynamic_sparse_training", params={**level, "method": "granet", "end": 8, "update_interval": 4})
    assert (ctrl.scheduler.current_sparsity_level, ctrl.scheduler.initial_level) == (0.5, 0.5)
    ctrl.scheduler.load_state({**ctrl.scheduler.get_state(), "current_epoch": 0, "current_step": 5})
    assert ctrl.scheduler.current_sparsity_level == pytest.approx(0.75 - 0.25 * 0.5**3)
    ctrl, _ = created("dynamic_sparse_training", params={**level, "method": "ac_dc", "final_epoch": 9})
    assert (ctrl.scheduler.current_sparsity_level, ctrl.scheduler.target_epoch) == (0, 9)
    ctrl.scheduler.epoch_step()
    assert ctrl.scheduler.current_sparsity_level == 0.75
    ctrl, _ = created("l0_sparsity", params={"weight": 0.5, "warmup_epochs": 1, "ramp_epochs": 1})
    assert (ctrl.scheduler.current_factor, ctrl.scheduler.target_epoch) == (0, 2)
    for _ in range(2):
        ctrl.scheduler.epoch_step()
    assert ctrl.scheduler.current_factor == 0.25


def test_what_nncf_can_import():
    class Loader(nncf_ext_torch.PTInitializingDataLoader):
        def get_inputs(self, dataloader_output):
            return (dataloader_output["picture"],), {}

    batches = [{"picture": torch.full((2, 1, 8, 8), 3.0), "label": torch.zeros(2)}]
    content = {"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": {"algorithm": "quantization"}}
    config = NNCFConfig.from_dict(content)
    config.register_extra_structs([nncf_ext_torch.QuantizationRangeInitArgs(Loader(batches), device="cpu")])
    config.register_extra_structs([nncf_ext_torch.BNAdaptationInitArgs(data_loader=Loader(batches))])
    ctrl, _ = create_compressed_model(convolutions(), config)
    inputs = [ctrl.variable_values(edit)["scale"] for edit in ctrl.plan if "input" in str(edit.site)]
    assert inputs and inputs[0] == pytest.approx(3)
    wrapped = nncf_ext_torch.wrap_dataloader_for_init([(1, 2)])
    assert (wrapped.get_inputs((1, 2)), wrapped.get_target((1, 2)), len(wrapped)) == (((1,), {}), 2, 1)
    assert nncf_ext_torch.wrap_dataloader_for_init(wrapped) is wrapped
    assert nncf_ext_torch.ExecutionParameters(True, None).cpu_only
    assert not nncf_ext_torch.is_accuracy_aware_training(config)
    assert nncf_ext_torch.CompressionStage.FULLY_COMPRESSED == 2
    with nncf_ext_torch.disable_patching(), nncf_ext_torch.forward_nncf_trace():
        NNCFConfig.validate(content)


def test_what_a_runner_tells(tmp_path):
    training = {"mode": "early_exit", "params": {"maximal_total_epochs": 2, "maximal_absolute_accuracy_degradation": 0.05}}
    compression = {"algorithm": "magnitude_sparsity", "params": {"sparsity_target_epoch": 5}}
    config = NNCFConfig.from_dict(
        {"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": compression, "accuracy_aware_training": training}
    )
    ctrl, model = create_compressed_model(convolutions(), config)
    told, accuracies = [], iter([0.5, 0.6, 0.7])

    def dump(model, controller, runner, folder):
        told.append((runner.cumulative_epoch_count, runner.training_epoch_count, runner.best_val_metric_value))
        told.append((runner.current_val_metric_value, runner.uncompressed_model_accuracy, type(runner.optimizer).__name__))
        told.append((round(runner.accuracy_budget, 6), runner.current_loss, runner.lr_scheduler))

    loop = nncf_ext_torch.create_accuracy_aware_training_loop(config, ctrl, 0.9, verbose=False)
    optimizers = lambda: (torch.optim.SGD(model.parameters(), 0.1), None)  # noqa: E731
    train = lambda *a, **k: 2.5  # noqa: E731
    loop.run(model, train, lambda m, epoch=0: next(accuracies), optimizers, dump_checkpoint_fn=dump, log_dir=tmp_path)
    assert told[:3] == [(0, 0, 0.5), (0.5, 0.9, "SGD"), (-0.35, None, None)]
    assert told[-3:] == [(2, 2, 0.7), (0.7, 0.9, "SGD"), (-0.15, 2.5, None)]
