"""Stripped models: the outputs of the compressed ones, and TensorFlow's own fake-quantize operators for whoever exports them."""

from __future__ import annotations

import warnings
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
CONFIG = {"input_info": {"sample_size": [1, 8, 8, 3]}, "compression": {"algorithm": "quantization"}}


def config() -> NNCFConfig:
    return register_default_init_args(NNCFConfig.from_dict(CONFIG), [(X, None)], 32)


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.ReLU()(keras.layers.DepthwiseConv2D(3)(x))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def both():
    ctrl, model = create_compressed_model(net(), config())
    return ctrl, {"compressed": model, "stripped": ctrl.strip()}, model(X).numpy()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_outputs_are_the_same(both, tmp_path):
    ctrl, models, y = both
    plain = models["stripped"]
    np.testing.assert_array_equal(plain(X), y)
    np.testing.assert_allclose(plain.predict(X, verbose=0), y, atol=1e-6)
    assert np.abs(ctrl.strip(quantizers=False)(X).numpy() - y).max() > 1e-3
    assert {v.path for v in plain.trainable_variables} == {v.path for v in ctrl.strip(quantizers=False).trainable_variables}
    plain.save(tmp_path / "plain.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "plain.keras")(X), y)


@pytest.mark.parametrize("state", ["compressed", "stripped"])
def test_saved_model(both, state, tmp_path):
    _, models, y = both
    models[state].export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    kinds = Counter(node.op for function in graph.library.function for node in function.node_def)
    assert kinds["FakeQuantWithMinMaxVars"] == 3 and kinds["FakeQuantWithMinMaxVarsPerChannel"] == 2
    np.testing.assert_allclose(loaded.serve(X), y, atol=0.02)


@pytest.mark.parametrize("state", ["compressed", "stripped"])
def test_tflite(both, state):
    """An int8 file with the trained ranges, without data for calibration."""
    _, models, y = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_keras_model(models[state])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        interpreter = tf.lite.Interpreter(model_content=converter.convert())
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(given, X.shape)
    interpreter.allocate_tensors()
    floats = [t["name"] for t in interpreter.get_tensor_details() if t["dtype"] == np.float32 and len(t["shape"]) == 4]
    assert len(floats) <= 2  # the input, and what the last layer reads
    interpreter.set_tensor(given, X)
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(made), y, atol=0.1 * np.abs(y).max())


def test_gradients_are_those_of_training(both):
    """A user's loop in a `tf.function` that forgot `training=True` differentiates the quantizers and not the operators."""
    _, models, _ = both
    model = models["compressed"]

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(X)))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    for ours, theirs in zip(gradients(), tf.function(gradients)(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(tf.reduce_max(tf.abs(ours))))


def test_compressing_again():
    ctrl, _ = create_compressed_model(net(), config())
    plain = ctrl.strip()
    with pytest.raises(ValueError, match="quantizers=False first"):
        create_compressed_model(plain, config())
    again = ctrl.strip_model(plain, quantizers=False)
    assert again is plain and len(plain.variables) == len(net().variables)
    create_compressed_model(plain, config())
