"""How Keras models are written outside of our own examples: layers that ask for sizes, keep constants, return several tensors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig
from nncf_ext.export.parity import session

RNG = np.random.default_rng(0)
QUANTIZATION = {"algorithm": "quantization", "initializer": {"range": {"type": "min_max", "num_init_samples": 16}}}
X = RNG.standard_normal((16, 6, 8)).astype("float32")
IDS = RNG.integers(0, 50, (16, 6)).astype("int32")


def compressed(model, x, algorithm=None):
    data = tf.data.Dataset.from_tensor_slices((x, x)).batch(8)
    config = NNCFConfig.from_dict({"compression": QUANTIZATION if algorithm is None else algorithm})
    return create_compressed_model(model, register_default_init_args(config, data, 8))


class ClassToken(L.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], 1, ops.shape(x)[2])), x], axis=1)


class Cut(L.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        n, h, w, c = ops.shape(images)
        cut = ops.image.extract_patches(images, size=self.size)
        return ops.reshape(cut, (n, (h // self.size) * (w // self.size), self.size * self.size * c))


class Positions(L.Layer):
    def __init__(self, length, width, **kwargs):
        super().__init__(**kwargs)
        self.table = tf.constant(np.sin(np.arange(length)[:, None] * np.arange(width)), tf.float32)

    def call(self, x):
        return x + self.table


class SmallOutputs(L.Layer):
    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return ops.relu(x) + 1.0


def around(layer, shape=(6, 8)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, L.Dense(3, name="fc")(layer(L.Dense(8)(inputs) if len(shape) == 2 else inputs)))


LAYERS = {
    "class token": (lambda: around(ClassToken()), X),
    "patches": (lambda: around(Cut(4), (8, 8, 3)), RNG.standard_normal((16, 8, 8, 3)).astype("float32")),
    "constant": (lambda: around(Positions(6, 8)), X),
    "loss": (lambda: around(SmallOutputs()), X),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_front_of_a_quantized_operator(name, tmp_path):
    keras.utils.set_random_seed(0)
    make, x = LAYERS[name]
    model = make()
    expected = model(x).numpy()
    controller, model = compressed(model, x)
    found = model(x).numpy()
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(model.predict(x, batch_size=5, verbose=0), found, atol=1e-5)
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(x, found, epochs=1, verbose=0).history["loss"][0])
    assert controller.export_model(tmp_path / "a.onnx").lsb < 1


@pytest.mark.filterwarnings("ignore:magnitude_sparsity:UserWarning")  # whose schedule does not matter here
def test_losses_that_layers_add_are_part_of_the_loss():
    for algorithm in ({"algorithm": "magnitude_sparsity", "sparsity_init": 0.0}, QUANTIZATION):
        keras.utils.set_random_seed(0)
        controller, model = compressed(around(SmallOutputs()), X, algorithm)
        model.compile("sgd", lambda y, p: 0.0 * ops.mean(p, -1))
        reached = model.train_on_batch(X, X[..., :3])
        layer = model.layers[-2]
        model(X, training=True)
        np.testing.assert_allclose(float(layer.losses[0]), reached, rtol=0.1)
        assert reached > 0.05


@pytest.mark.parametrize("used", [0, 1, 2])
def test_a_layer_with_several_outputs(used, tmp_path):
    inputs = keras.Input((6, 8))
    outputs = L.LSTM(4, return_sequences=True, return_state=True)(inputs)
    model = keras.Model(inputs, L.Dense(3)(outputs[used]))
    expected = model(X).numpy()
    controller, model = compressed(model, X)
    assert 0 < np.abs(model(X).numpy() - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("device", ["ANY", "CPU"])
def test_indices_of_an_embedding_are_no_activations(dtype, device, tmp_path):
    inputs = keras.Input((6,), dtype=dtype)
    x = L.GlobalAveragePooling1D()(L.Embedding(50, 8, name="table")(inputs))
    config = NNCFConfig.from_dict({"target_device": device, "compression": QUANTIZATION})
    data = tf.data.Dataset.from_tensor_slices((IDS, IDS)).batch(8)
    controller, model = create_compressed_model(keras.Model(inputs, L.Dense(2)(x)), register_default_init_args(config, data, 8))
    assert not [edit.key for edit in controller.plan if edit.site.node == "table" and not edit.site.is_parameter]
    assert controller.export_model(tmp_path / "a.onnx").lsb < 1


def test_sizes_that_the_model_leaves_open_are_free_in_the_file(tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, L.Conv2D(4, 3)(L.Conv2D(4, 3, activation="relu")(inputs)))
    controller, model = compressed(model, RNG.standard_normal((8, 12, 10, 3)).astype("float32"))
    controller.export_model(tmp_path / "a.onnx")
    runner = session(tmp_path / "a.onnx")
    other = RNG.standard_normal((3, 9, 20, 3)).astype("float32")
    np.testing.assert_allclose(runner.run(None, {runner.get_inputs()[0].name: other})[0], model(other), atol=0.02)


def test_calls_of_a_shared_layer_can_be_ignored_as_nncf_named_them():
    dense = L.Dense(8, name="shared")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, dense(L.ReLU()(dense(inputs))))
    controller, _ = compressed(model, X[:, 0], {**QUANTIZATION, "ignored_scopes": ["shared^0"]})
    quantized = {site.node for edit in controller.plan for site in edit.sites}
    assert "shared^1" in quantized and "shared" not in quantized


CHOICES = {
    "argmax": lambda h: h * ops.one_hot(ops.argmax(h, -1), 8),
    "where": lambda h: ops.where(ops.logical_and(h > 0.1, h < 1), h, 0.1 * h),
    "cast": lambda h: ops.cast(ops.cast(4 * h, "int32"), "float32") + h,
    "sign bits": lambda h: h * ops.cast(ops.signbit(ops.round(h)), "float32"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_operators_on_and_to_integers(name, tmp_path):
    """Attached, trained, and in a file that chooses as the model does."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    hidden = L.Dense(8)(inputs)
    model = keras.Model(inputs, [L.Dense(3)(CHOICES[name](hidden)), ops.argmax(hidden, -1)])
    controller, model = compressed(model, X)
    model.compile("sgd", ["mse", None], jit_compile=False)
    assert np.isfinite(model.fit(X, [X[..., :3], X[..., 0]], verbose=0).history["loss"][0])
    assert controller.export_model(tmp_path / "a.onnx").exact
    runner = session(tmp_path / "a.onnx")
    outputs, chosen = runner.run(None, {runner.get_inputs()[0].name: X})
    np.testing.assert_allclose(outputs, model(X)[0], atol=0.02)
    np.testing.assert_array_equal(chosen, model(X)[1])


def test_the_sign_of_zero_and_of_infinity_in_a_file(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, [L.Dense(3)(inputs), ops.cast(ops.signbit(inputs), "float32")])
    x = np.array([[0.0, -0.0, 1, -1, np.inf, -np.inf, 1e-30, -1e-30]], np.float32)
    controller, model = compressed(
        model, X[:, 0], {**QUANTIZATION, "activations": {"bits": 8}, "ignored_scopes": ["{re}.*input.*"]}
    )
    controller.export_model(tmp_path / "a.onnx")
    runner = session(tmp_path / "a.onnx")
    np.testing.assert_array_equal(runner.run(None, {runner.get_inputs()[0].name: x})[1], [[0, 1, 0, 1, 0, 1, 0, 1]])


def test_other_bits_are_refused_in_a_sentence(tmp_path):
    inputs = keras.Input((8,))
    exponent = ops.cast(ops.view(L.Dense(8)(inputs), "int32") > 2**30, "float32")
    controller, _ = compressed(keras.Model(inputs, L.Dense(3)(exponent)), X[:, 0])
    with pytest.raises(ValueError, match="found TensorFlow's operator Bitcast, expected one that tf2onnx translates to ONNX"):
        controller.export_model(tmp_path / "a.onnx")


def test_fourier_transforms_in_a_file(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    hidden = L.Dense(8)(inputs)
    nothing = ops.zeros_like(hidden)
    along_rows, over_both = ops.fft((hidden, nothing)), ops.fft2((hidden, nothing))
    back = ops.ifft2(over_both)
    mixed = ops.concatenate([over_both[0], along_rows[1], back[0]], -1)
    model = keras.Model(inputs, [L.Dense(3)(mixed), along_rows[1], over_both[0], back[0]])
    controller, model = compressed(model, X)
    assert controller.export_model(tmp_path / "a.onnx").exact
    runner = session(tmp_path / "a.onnx")
    for found, expected in zip(runner.run(None, {runner.get_inputs()[0].name: X}), model(X), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
