"""Binarization in Keras: gradients against the hand-made ones, training on real data, stages in `fit`, files."""

import keras
import numpy as np
import onnxruntime as ort
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args, xp

from nncf_ext import NNCFConfig
from nncf_ext.algorithms.binarization import BinaryActivation, BinaryWeight
from nncf_ext.tools import demo
from tests import binarization_reference as by_hand
from tests.keras_training import compile_model


def test_gradients():
    given, want = by_hand.example(), by_hand.activation(by_hand.example())
    tensors = {name: tf.constant(value) for name, value in given.items()}
    names = ["x", "log_scale", "logit"]
    with tf.GradientTape() as tape:
        tape.watch([tensors[name] for name in names])
        y = BinaryActivation(threshold_axis=1).apply(xp, tensors["x"], tensors, True)
        loss = tf.reduce_sum(y * tensors["g"])
    np.testing.assert_array_equal(y, want["y"])
    for name, gradient in zip(names, tape.gradient(loss, [tensors[name] for name in names]), strict=True):
        np.testing.assert_allclose(gradient, want[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_weights():
    x = tf.constant(by_hand.example()["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = BinaryWeight(channel_axis=1).apply(xp, x, {}, True)
        loss = tf.reduce_sum(y * x)
    np.testing.assert_allclose(y, by_hand.weight(x.numpy()), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, x), x + y, rtol=1e-6)


def conv(filters, strides, name):
    layers = keras.layers
    return [
        layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


@pytest.fixture(scope="module")
def digits():
    data = demo.load_digits()
    return data.train_images[..., None], data.train_labels, data.test_images[..., None], data.test_labels


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["xnor", "dorefa"])
def test_a_binary_network_learns(digits, mode, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [*conv(24, 1, "first"), *conv(48, 2, "second"), *conv(48, 1, "third"), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])
    config = NNCFConfig.from_dict({"compression": {"algorithm": "binarization", "mode": mode, "ignored_scopes": ["{re}first"]}})
    register_default_init_args(config, [(digits[0][:128], digits[1][:128])], 128)
    ctrl, _ = create_compressed_model(model, config)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_model(model, keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    callbacks = create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    model.fit(*digits[:2], batch_size=64, epochs=1, callbacks=callbacks, verbose=0)
    assert ctrl.compression_stage() == 0
    model.fit(*digits[:2], batch_size=64, initial_epoch=1, epochs=10, callbacks=callbacks, verbose=0)
    assert ctrl.compression_stage() == 2
    accuracy = float((np.argmax(model(digits[2], training=False), 1) == digits[3]).mean())
    assert accuracy > 0.9

    parity = ctrl.export_model(tmp_path / "binary.onnx")
    assert parity.unoptimized < 1e-3
    session = ort.InferenceSession(tmp_path / "binary.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: digits[2]})[0]
    assert float((outputs.argmax(1) == digits[3]).mean()) == pytest.approx(accuracy, abs=0.01)

    plain = ctrl.strip()
    for name in ("second", "third"):
        sizes = np.unique(np.abs(plain.get_layer(name).kernel.numpy()))
        assert len(sizes) == (1 if mode == "dorefa" else 48)
    assert len(np.unique(plain.get_layer("first").kernel.numpy())) > 48
