"""From a config with pruning and quantization to a smaller model, its `.keras` file and its ONNX file."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

PRUNING = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"prune_first_conv": True, "prune_batch_norms": True}}


def bottleneck(x, width):
    y = L.Conv2D(2 * width, 1, use_bias=False)(x)
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    gate = L.Reshape((1, 1, 2 * width))(L.GlobalAveragePooling2D()(y))
    gate = L.Conv2D(2 * width, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(gate))
    return L.Add()([x, L.Conv2D(width, 1)(L.Multiply()([y, gate]))])


def network():
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = bottleneck(bottleneck(x, 16), 16)
    x = L.Dense(16, activation="relu")(L.Flatten()(L.MaxPooling2D(4)(x)))
    return keras.Model(inputs, L.Dense(5)(x))


class Net(keras.Model):
    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.stages = [keras.Sequential([L.Conv2D(width, 3, padding="same"), L.BatchNormalization(), L.ReLU()]) for _ in range(3)]
        self.head = L.Dense(5)

    def call(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.head(keras.ops.mean(x, (1, 2)))


@pytest.mark.filterwarnings("ignore:.*prunes nothing in 2 of 6 groups")  # the gates are small
@pytest.mark.parametrize("make", [pytest.param(network, marks=pytest.mark.slow), Net], ids=["functional", "subclassed"])
@pytest.mark.parametrize("others", [[], [{"algorithm": "quantization"}]], ids=["float", "int8"])
def test_a_pruned_model_gets_smaller(make, others, tmp_path):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).standard_normal((32, 8, 8, 3)).astype("float32")
    config = {"input_info": {"sample_size": [2, 8, 8, 3], "filler": "random"}, "compression": [PRUNING, *others]}
    config = register_default_init_args(NNCFConfig.from_dict(config), [(images, np.zeros(32))], 32)
    ctrl, model = create_compressed_model(make(), config)
    compile_model(model, "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, np.arange(32) % 5, verbose=0)
    weights = sum(variable.shape.num_elements() for variable in model.trainable_variables)
    expected = model(images).numpy()

    small = ctrl.strip()
    assert small.count_params() < 0.6 * weights
    if not others:
        np.testing.assert_allclose(small(images), expected, atol=1e-5)
    outputs = small(images).numpy()
    small.save(tmp_path / "small.keras")
    read = keras.saving.load_model(tmp_path / "small.keras", custom_objects={"Net": Net})
    np.testing.assert_allclose(read(images), outputs, atol=1e-5)

    parity = ctrl.export_model(tmp_path / "small.onnx", input_names=["image"])
    np.testing.assert_array_equal(model(images).numpy(), expected)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    # codes of activations differ by one at ties, and the ranges of an untrained net have many of them
    np.testing.assert_allclose(session.run(None, {"image": images})[0], expected, atol=4 * parity.step if others else 1e-5)
    assert parity.exact
    values = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer]
    assert sum(value.size for value in values if value.ndim > 1) < 0.6 * weights

    assert ctrl.strip(do_copy=False) is model
    np.testing.assert_allclose(model(images), outputs, atol=1e-5)
    model.fit(images, np.arange(32) % 5, verbose=0)
