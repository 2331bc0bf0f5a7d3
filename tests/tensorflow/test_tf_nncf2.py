"""Scripts of NNCF 2.x in Keras: the order in which they call things, the states that they keep, the names that they read."""

import json

import keras
import nncf_ext_tensorflow
import numpy as np
import pytest
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import CheckpointError
from nncf_ext.report import prepare_for_tensorboard
from tests.nncf2_states import check_other_algorithms_go_on, check_sparsity_goes_on, state_of_nncf

X = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
PRUNED = {"pruning_init": 0.5, "params": {"prune_first_conv": True}}
GROWING = {"params": {"sparsity_target": 0.9, "sparsity_target_epoch": 9, "power": 1, "sparsity_freeze_epoch": 20}}
pytestmark = pytest.mark.filterwarnings("ignore:.*has not reached its target:UserWarning")  # nothing is trained here


def convolutions():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, L.Conv2D(4, 3, name="second")(L.Conv2D(16, 3, activation="relu", name="first")(inputs)))


def created(algorithm, state=None, **entry):
    config = NNCFConfig.from_dict({"compression": {"algorithm": algorithm, **entry}})
    return create_compressed_model(convolutions(), register_default_init_args(config, [(X, np.zeros(2))], 2), state)


@pytest.mark.parametrize(
    "algorithm, entry", [("magnitude_sparsity", {"sparsity_init": 0.5}), ("filter_pruning", PRUNED), ("quantization", {})]
)
def test_export_after_preparation(algorithm, entry, tmp_path):
    """A file that computes the same as the one before it, whatever was made plain in place."""
    ctrl, model = created(algorithm, **entry)
    before = ctrl.export_model(tmp_path / "before.onnx")
    statistics, rate = str(ctrl.statistics()), getattr(ctrl, "compression_rate", None)
    ctrl.prepare_for_export()
    after = ctrl.export_model(tmp_path / "after.onnx")
    assert after.exact and after.difference == pytest.approx(before.difference, abs=1e-6)
    ctrl.save_checkpoint(tmp_path / "model.safetensors")
    assert (str(ctrl.statistics()), getattr(ctrl, "compression_rate", None)) == (statistics, rate)
    assert ctrl.model is model and ctrl.strip(do_copy=False) is model
    again, _ = created(algorithm, **entry)
    again.load_checkpoint(tmp_path / "model.safetensors")
    assert again.get_compression_state() == ctrl.get_compression_state()
    np.testing.assert_allclose(again.strip()(X), ctrl.strip()(X), rtol=1e-6)


def test_sparsity_goes_on_where_nncf_was():
    check_sparsity_goes_on(created)


def test_other_algorithms_go_on_where_nncf_was():
    check_other_algorithms_go_on(created)


def test_a_state_as_json():
    """What a Keras script keeps beside its weights."""
    ctrl, model = created("magnitude_sparsity", **GROWING)
    for _ in range(3):
        ctrl.scheduler.epoch_step()
        ctrl.scheduler.step()
    saved = json.loads(json.dumps({"controller": ctrl.state_dict(), "scheduler": ctrl.scheduler.state_dict()}))
    other, resumed = created("magnitude_sparsity", **GROWING)
    resumed.set_weights(model.get_weights())
    other.load_state_dict(saved["controller"])
    assert other.get_compression_state() == ctrl.get_compression_state() and other.compression_rate == ctrl.compression_rate
    np.testing.assert_array_equal(resumed(X), model(X))
    other.scheduler.load_state_dict({**saved["scheduler"], "current_epoch": 1})
    assert other.scheduler.current_epoch == 1


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "this is no compression state"),
        (None, "this is no compression state"),
        (state_of_nncf("rb_sparsity", 1, 1), r"is of \['rb_sparsity'\], this model is compressed with \['magnitude_sparsity'\]"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state, message):
    ctrl, _ = created("magnitude_sparsity", sparsity_init=0.5)
    before = ctrl.get_compression_state()
    for load in (ctrl.load_state, ctrl.load_state_dict):
        with pytest.raises(CheckpointError, match=message):
            load(state)
    assert ctrl.get_compression_state() == before


def test_names_that_scripts_read_of_sparsity():
    entry = {"sparsity_init": 0.25, "params": {"sparsity_target": 0.75, "sparsity_target_epoch": 7, "sparsity_freeze_epoch": 8}}
    ctrl, model = created("magnitude_sparsity", **entry)
    scheduler = ctrl.scheduler
    assert (scheduler.current_sparsity_level, scheduler.initial_level, scheduler.target_level) == (0.25, 0.25, 0.75)
    assert (scheduler.target_epoch, scheduler.freeze_epoch) == (7, 8)
    first, second = ctrl.sparsified_module_info
    assert first.module is model.get_layer("first") and second.module is model.get_layer("second")
    assert first.module_node_name == "first"
    zeros = int((np.asarray(first.operand.apply_binary_mask(np.ones((3, 3, 1, 16), np.float32))) == 0).sum())
    assert zeros == round(144 * first.sparsity_level) and not first.operand.frozen
    summary = ctrl.statistics().magnitude_sparsity.model_statistics.sparsified_layers_summary
    assert [layer.weight_shape for layer in summary] == [[3, 3, 1, 16], [3, 3, 16, 4]]
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


def test_names_that_scripts_read_of_other_algorithms():
    rb, _ = created("rb_sparsity", sparsity_init=0.1)
    rb.compression_rate = 0.65
    assert rb.compression_rate == rb.loss.target_sparsity_rate == 0.65 and rb.current_sparsity_level == 0
    assert (rb.loss.p, rb.loss.disabled) == (0.05, False)
    pruning, _ = created("filter_pruning", **PRUNED)
    report = pruning.statistics().filter_pruning
    assert pruning.scheduler.current_pruning_level == report.current_pruning_level == 0.5
    assert report.model_statistics.pruned_layers_summary[0].filter_pruning_level == 0.5
    quantizers, _ = created("quantization", params={"activations_quant_start_epoch": 1, "weights_quant_start_epoch": 0})
    report = quantizers.statistics().quantization
    assert (report.wq_counter.total_count, report.wq_counter.num_symmetric, report.wq_counter.num_per_channel) == (2, 2, 2)
    assert (report.num_wq_per_bitwidth, report.num_aq_per_bitwidth) == ({8: 2}, {8: 2})
    assert report.ratio_of_enabled_quantizations == 50


def test_what_nncf_can_import():
    content = {"compression": {"algorithm": "quantization"}}
    config = NNCFConfig.from_dict(content)
    config.register_extra_structs([nncf_ext_tensorflow.QuantizationRangeInitArgs([np.full((2, 8, 8, 1), 3.0, np.float32)])])
    config.register_extra_structs([nncf_ext_tensorflow.BNAdaptationInitArgs(data_loader=[X])])
    ctrl, _ = create_compressed_model(convolutions(), config)
    inputs = [ctrl.variable_values(edit)["scale"] for edit in ctrl.plan if "input" in str(edit.site)]
    assert inputs and inputs[0] == pytest.approx(3)
    assert not nncf_ext_tensorflow.is_accuracy_aware_training(config)
    assert nncf_ext_tensorflow.CompressionStage.FULLY_COMPRESSED == 2
    NNCFConfig.validate(content)
