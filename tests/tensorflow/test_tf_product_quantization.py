"""Product codes of convolutions in Keras: error correction, look-up tables, `fit`, files."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import NNCFConfig, packed
from nncf_ext.coding.product_codes import Layout, convolution_response
from nncf_ext.coding.response_fit import same_upper
from tests.keras_training import compile_model

IMAGES = np.random.default_rng(0).normal(size=(48, 9, 8, 4)).astype(np.float32)


def net():
    """Convolutions of every kind of pads, and projections with several axes of inputs or outputs."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 8, 4))
    x = keras.layers.Conv2D(16, 3, 2, "same", activation="relu", name="same")(inputs)
    x = keras.layers.SeparableConv2D(24, 3, padding="same", activation="relu", name="separable")(x)
    x = keras.layers.Reshape((20, 24))(x)
    x = keras.layers.Conv1D(16, 3, padding="causal", dilation_rate=2, activation="relu", name="causal")(x)
    x = x + keras.layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    outputs = keras.layers.Dense(40, name="head")(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs)


def compressed(model, **params):
    settings = {"conv": {"codewords": 12}, "linear": {"codewords": 4}, **params}
    config = NNCFConfig.from_dict({"compression": {"algorithm": "product_quantization", "params": settings}})
    batches = [(IMAGES[i : i + 16], None) for i in range(0, 48, 16)]
    return create_compressed_model(model, register_default_init_args(config, batches, 16))


@pytest.fixture(scope="module")
def corrected():
    return compressed(net())


def test_every_layer_is_corrected(corrected):
    report = corrected[0].statistics().product_quantization
    names = ["same", "separable", "causal", "attention/query", "attention/key", "attention/value", "attention/attention_output"]
    assert sorted(layer.name for layer in report.layers) == sorted([*names, "head"])
    assert all(0 < layer.error < layer.error_of_k_means for layer in report.layers) and not report.not_corrected
    assert "in groups" in dict(corrected[0].plan.skipped)["separable/depthwise"]


def test_the_first_errors_are_those_of_the_model_and_tables_compute_it(corrected):
    ctrl, model = corrected
    layer, bias = model.get_layer("same"), np.asarray(model.get_layer("same").bias)
    own = next(ctrl.variable_values(edit) for edit in ctrl.plan if edit.site.node == "same")
    codes = Layout((3, 3, 4, 16), 2, (3,)).in_positions(own["codes"])
    got = convolution_response(IMAGES, own["codebook"], codes, (3, 3), (2, 2), same_upper((9, 8), (3, 3), (2, 2)), (1, 1))
    stripped = np.asarray(ctrl.strip().get_layer("same").kernel)
    want, coded = (np.asarray(keras.ops.conv(IMAGES, k, 2, "same")) for k in (np.asarray(layer._kernel), stripped))
    np.testing.assert_allclose(got, coded, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.maximum(got + bias, 0), np.asarray(layer(IMAGES)), rtol=1e-4, atol=1e-5)
    first = next(row for row in ctrl.statistics().product_quantization.layers if row.name == "same")
    assert first.error == pytest.approx(np.square(coded - want).sum() / np.square(want).sum(), rel=1e-3)


def test_code_books_are_trained_in_fit_and_written(tmp_path):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    same = keras.layers.Conv2D(16, 3, 4, "same", activation="relu", name="same")
    model = keras.Sequential([keras.Input((9, 8, 4)), same, keras.layers.Flatten(), keras.layers.Dense(40, name="head")])
    ctrl, model = compressed(model, start_epoch=1)
    compile_model(model, keras.optimizers.SGD(0.05), "mse")
    target = np.random.default_rng(1).normal(size=(48, 40)).astype(np.float32)
    callbacks = create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    losses = model.fit(IMAGES, target, batch_size=16, epochs=3, callbacks=callbacks, verbose=0).history["loss"]
    assert losses[-1] < losses[1] and ctrl.statistics().product_quantization.coded
    ctrl.pack(tmp_path / "x.ncp")
    plain = ctrl._adapter.tensors(ctrl.strip(quantizers=False))
    file = packed.Packed(tmp_path / "x.ncp")
    for name, value in plain.items():
        np.testing.assert_array_equal(file[name], value, err_msg=name)
    assert file.codec("same/kernel").startswith("product")
    assert ctrl.export_model(tmp_path / "x.onnx").difference < 1e-4
