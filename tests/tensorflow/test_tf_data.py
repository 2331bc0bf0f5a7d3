"""Data as Keras' users have them: the same ranges from every form, and errors that tell data from model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import ConfigError, NNCFConfig

INT8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64, "type": "min_max"}}}
X = np.random.default_rng(0).standard_normal((40, 4, 4, 1))
Y = np.arange(40) % 3


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def batches():
    for start in range(0, 40, 8):
        yield X[start : start + 8], Y[start : start + 8]


FORMS = {
    "batched tf.data": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8),
    "tf.data": tf.data.Dataset.from_tensor_slices((X, Y)),
    "tf.data without labels": tf.data.Dataset.from_tensor_slices(X),
    "tf.data of dicts": tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}),
    "numpy array": X,
    "numpy (x, y)": (X, Y),
    "without the last axis": (X[..., 0], Y),
    "tensor": tf.constant(X),
    "x, y, weights": (X, Y, np.ones(40)),
    "PyDataset": Batches(),
    "generator function": batches,
    "generator": batches(),
    "batches": list(batches()),
    "samples": list(zip(X, Y, strict=True)),
    "dict": {"image": X},
}


def net():
    inputs = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Conv2D(3, 3, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(0))(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="ones")(keras.layers.Flatten()(x)))


def compressed(data, model=None, compression=INT8, **more):
    config = register_default_init_args(NNCFConfig.from_dict({"compression": compression}), data, **more)
    return create_compressed_model(model or net(), config)


def scales(model):
    return {variable.path: variable.numpy() for variable in model.variables if "scale" in variable.path}


@pytest.fixture(scope="module")
def expected():
    return list(scales(compressed(FORMS["batched tf.data"])[1]).values())


@pytest.mark.parametrize("form", FORMS)
def test_ranges_are_the_same_from_every_form(form, expected):
    found = list(scales(compressed(FORMS[form])[1]).values())
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("form", ["tf.data", "numpy (x, y)", "PyDataset"])
def test_the_loss_gets_the_labels(form):
    precision = {"type": "hawq", "bits": [4, 8], "compression_ratio": 1.5, "num_data_points": 16, "iter_number": 2}
    compression = {**INT8, "initializer": {**INT8["initializer"], "precision": precision}}
    config = NNCFConfig.from_dict({"target_device": "TRIAL", "compression": compression})
    seen = []

    def criterion_fn(outputs, target, criterion):
        seen.append(target)
        return keras.ops.mean(criterion(target, outputs))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    config = register_default_init_args(config, FORMS[form], criterion=loss, criterion_fn=criterion_fn)
    create_compressed_model(net(), config)
    assert seen and all(target.shape == (2,) for target in seen)


def two(as_dict=False):
    keras.utils.set_random_seed(0)
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    y = keras.layers.Dense(2)(a) + keras.layers.Dense(2)(b)
    return keras.Model({"b": b, "a": a} if as_dict else [a, b], y)


def test_the_inputs_of_the_model_tell_lists_of_inputs_from_batches():
    a, b, y = np.ones((40, 3)), 2 * np.ones((40, 4)), np.zeros(40)
    forms = ([a, b], ([a, b], y), (a, b, y), {"a": a, "b": b, "labels": y}, tf.data.Dataset.from_tensor_slices(((a, b), y)))
    found = [list(scales(compressed(data, two())[1]).values()) for data in forms]
    for each in found:
        assert len(each) >= 4
        for ours, theirs in zip(each, found[0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    with pytest.raises(ConfigError, match="data_loader: .*or a dict by the names of the arguments"):
        compressed((a, b, y), two(as_dict=True))
    compressed({"a": a, "b": b}, two(as_dict=True))


def test_an_error_says_what_was_found_and_what_the_model_takes():
    words = r"data_loader: the model does not run on the data: found float64 \(40, 5, 5, 1\), the model takes image \(batch, 4,"
    with pytest.raises(ConfigError, match=words):
        compressed((np.zeros((40, 5, 5, 1)), Y))
    with pytest.raises(ConfigError, match=r"found float64 \(4, 4, 1\), the model takes image \(batch, 4, 4, 1\)"):
        compressed(X[0])
    with pytest.raises(ConfigError, match=r"does not run on .* \(found float64 \(8, 4, 4, 3\); the model takes image \(batch"):
        compressed([(np.zeros((8, 4, 4, 3)), Y[:8])])


def test_an_error_of_the_data_is_not_the_models():
    def damaged():
        yield X, Y
        raise OSError("image 7 is damaged")

    with pytest.raises(ConfigError, match="data_loader: the data themselves failed at item 1, .*OSError: image 7 is damaged"):
        compressed(damaged, compression={**INT8, "initializer": {"range": {"num_init_samples": 64}}})
    with pytest.raises(ConfigError, match="data_loader: found a str, expected a loader"):
        compressed("train/")
