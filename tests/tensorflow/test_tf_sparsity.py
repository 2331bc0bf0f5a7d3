"""Sparsity in `fit` on real data: levels reached, masks that stay, masks that are loaded."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import NNCFConfig, noise
from nncf_ext.tools import demo
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="conv2"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def digits():
    data = demo.load_digits()
    return data.train_images[..., None], data.train_labels, data.test_images[..., None], data.test_labels


@pytest.fixture(scope="module")
def weights(digits):
    model = net()
    fit(model, digits, 5)
    return model.get_weights()


def fit(model, digits, epochs, ctrl=None, rate=2e-3):
    if getattr(model, "optimizer", None) is None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        compile_model(model, keras.optimizers.Adam(rate), loss, jit_compile=False)
    callbacks = [] if ctrl is None else create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    start = 0 if ctrl is None else ctrl.scheduler.current_epoch + 1
    model.fit(*digits[:2], batch_size=32, initial_epoch=start, epochs=start + epochs, callbacks=callbacks, verbose=0)


def accuracy(model, digits):
    return float((np.argmax(model(digits[2], training=False), 1) == digits[3]).mean())


def compress(weights, *compression, data=None):
    model = net()
    model.set_weights(weights)
    config = NNCFConfig.from_dict({"compression": list(compression)})
    if data is not None:
        register_default_init_args(config, [data], 64)
    return create_compressed_model(model, config)


def rb(**params):
    """Keras' Adam has one learning rate for all."""
    return {"algorithm": "rb_sparsity", "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 3, **params}}


def scores(ctrl):
    return [ctrl.variable_values(edit)["scores"] for edit in ctrl.plan.of("rb_sparsity")]


def test_rb_reaches_its_level_and_keeps_the_accuracy(weights, digits):
    plain = net()
    plain.set_weights(weights)
    ctrl, model = compress(weights, rb(sparsity_freeze_epoch=6))
    fit(model, digits, 6, ctrl, 0.02)
    report = ctrl.statistics().rb_sparsity
    assert abs(report.sparsity_level_for_layers - 0.6) < 0.01
    assert accuracy(model, digits) > accuracy(plain, digits) - 0.05
    before = [s > 0 for s in scores(ctrl)]

    fit(model, digits, 2, ctrl)  # frozen, in the training function that was traced before
    assert float(ctrl.loss()) == 0
    assert all((a == (b > 0)).all() for a, b in zip(before, scores(ctrl), strict=True))
    stripped = ctrl.strip()
    zeros = sum(int((w == 0).sum()) for w in (stripped.get_layer(n).kernel.numpy() for n in ("conv1", "conv2", "head")))
    assert zeros == sum(int((~mask).sum()) for mask in before)
    assert accuracy(stripped, digits) == accuracy(model, digits)


def test_local_and_adaptive(weights, digits):
    ctrl, model = compress(weights, rb(sparsity_level_setting_mode="local", schedule="adaptive", sparsity_freeze_epoch=50))
    fit(model, digits, 3, ctrl, 1e-5)
    report = ctrl.statistics().rb_sparsity
    assert report.target_sparsity_level == 0.05 and report.sparsity_level == 0


def test_the_noise_is_that_of_the_step(weights):
    """As in PyTorch: the draw of this step, in index order."""
    ctrl, model = compress(weights, rb())
    for _ in range(3):
        ctrl.scheduler.step()
    edit = ctrl.plan.edits[0]
    sizes = [s.size for s in scores(ctrl)]
    assert (ctrl.variable_values(edit)["rows"] == noise.draw(2, sizes)[0]).all()


def test_const_masks_are_the_zeros_of_the_weights(weights, digits):
    sparse = [np.where(np.abs(w) < 0.03, 0, w) if w.ndim > 1 else w for w in weights]
    int8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}
    ctrl, model = compress(sparse, {"algorithm": "const_sparsity"}, int8, data=(digits[0][:64], digits[1][:64]))
    level = ctrl.statistics().const_sparsity.sparsity_level_for_layers
    assert 0 < level < 1
    fit(model, digits, 1, ctrl)
    for before, after in zip(sparse, ctrl.strip(quantizers=False).get_weights(), strict=True):
        assert before.ndim == 1 or (after[before == 0] == 0).all()


def test_a_saved_model_has_its_scores(weights, tmp_path):
    ctrl, model = compress(weights, rb())
    ctrl.set_sparsity_level(0.4, "head")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    assert keras.ops.all(loaded(x, training=False) == model(x, training=False))
    assert float(ctrl.variable_values(ctrl.plan.edits[2])["level"]) == pytest.approx(0.4)


def test_int8_of_random_masks_is_exported(weights, digits, tmp_path):
    int8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}
    ctrl, model = compress(weights, rb(sparsity_target_epoch=1), int8, data=(digits[0][:64], digits[1][:64]))
    fit(model, [d[:320] for d in digits], 3, ctrl, 0.3)
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.lsb < 1 and ctrl.compression_rate > 0
