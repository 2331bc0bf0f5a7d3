"""Quantizers that are switched while a Keras model trains: in `fit`, in a user's `tf.function`, and in saved models."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import NNCFConfig
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

STAGED = {"weights_quant_start_epoch": 1, "activations_quant_start_epoch": 2}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 8, 8, 3)).astype("float32"), RNG.normal(size=(16, 4)).astype("float32")


def net() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU(name="relu")(L.Conv2D(8, 3, padding="same", name="stem")(inputs))
    y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="body")(x))
    return keras.Model(inputs, L.Dense(4, name="head")(L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([x, y])))))


def compressed(**keys: Any) -> tuple[Any, keras.Model]:
    entry = {"algorithm": "quantization", "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}, **keys}
    config = NNCFConfig.from_dict({"compression": entry})
    return create_compressed_model(net(), register_default_init_args(config, [(X[:8], Y[:8]), (X[8:], Y[8:])], 8))


def values(ctrl: Any) -> dict[str, np.ndarray]:
    return {f"{edit.key}.{name}": np.array(value) for edit in ctrl.plan for name, value in ctrl.variable_values(edit).items()}


def losses_of_fit(**options: Any) -> list[float]:
    ctrl, model = compressed(params=STAGED)
    compile_model(model, keras.optimizers.SGD(0.05), "mse", **options)
    callbacks = create_compression_callbacks(ctrl, log_text=False)
    return model.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=callbacks).history["loss"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")  # where it runs eagerly, of ranges that are not in use
def test_fit_and_a_function_of_the_users_follow_the_stages() -> None:
    eager = losses_of_fit(run_eagerly=True)
    assert losses_of_fit() == pytest.approx(eager, rel=1e-4)
    assert losses_of_fit(jit_compile=True) == pytest.approx(eager, rel=1e-4)

    ctrl, model = compressed(params=STAGED)
    optimizer, traces = keras.optimizers.SGD(0.05), []

    @tf.function
    def step(x: Any, y: Any) -> Any:
        traces.append(None)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = []
    for _ in range(4):
        ctrl.scheduler.epoch_step()
        losses.append(np.mean([float(step(X[i : i + 8], Y[i : i + 8])) for i in (0, 8)]))
    assert losses == pytest.approx(eager, rel=1e-4)
    assert len(traces) == 1


def test_init_range_leaves_the_compressed_model_as_it_is() -> None:
    ctrl, model = compressed(preset="mixed")
    before, outputs, classes = values(ctrl), model(X).numpy(), [type(layer) for layer in model.layers]
    for edit in ctrl.plan:
        for name, value in ctrl.variable_values(edit).items():
            ctrl._attached.assign(edit, name, 3 * value)
    ctrl.init_range()
    for key, value in values(ctrl).items():
        np.testing.assert_allclose(value, before[key], rtol=1e-5, atol=1e-7, err_msg=key)
    np.testing.assert_allclose(model(X), outputs, rtol=1e-5, atol=1e-6)
    assert [type(layer) for layer in model.layers] == classes


def test_a_saved_model_is_switched_as_it_was(tmp_path) -> None:
    ctrl, model = compressed()
    ctrl.disable_activation_quantization()
    assert ctrl.export_model(tmp_path / "model.onnx").lsb <= 1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    ctrl.enable_activation_quantization()
    assert not np.array_equal(loaded(X), model(X))
    assert ctrl.export_model(tmp_path / "model.onnx").lsb <= 1
