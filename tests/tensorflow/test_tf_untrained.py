"""Ranges of a Keras network whose BatchNorm statistics do not fit the data yet, and what is said where data are missing."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args
from nncf_ext_tensorflow.demo import digits_net

from nncf_ext import ConfigError, InitializationWarning, NNCFConfig
from nncf_ext.tools import demo

X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
NO_ADAPTATION = {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}


def net(depth: int = 4, trainable: bool = True) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    for index in range(depth):
        x = L.Conv2D(8, 3, padding="same", use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=0.03))(x)
        x = L.BatchNormalization(trainable=trainable, momentum=0.1, epsilon=1e-5)(x)
        x = L.ReLU(name=f"relu_{index}")(x)
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def config(**initializer: Any) -> NNCFConfig:
    entry = {"algorithm": "quantization", **({"initializer": initializer} if initializer else {})}
    return NNCFConfig.from_dict({"compression": entry})


def first_scales(model: keras.Model, **initializer: Any) -> list[float]:
    ctrl, _ = create_compressed_model(model, register_default_init_args(config(**initializer), [X], 16))
    return [float(ctrl.variable_values(edit)["scale"].item()) for edit in ctrl.plan if "relu" in edit.site.node]


def relu_maxima(model: keras.Model, training: bool) -> list[float]:
    """Of what each ReLU gives: the mean over samples of the largest value. The statistics of `model` stay."""
    before = model.get_weights()
    outputs = keras.Model(model.input, [layer.output for layer in model.layers if layer.name.startswith("relu")])
    found = [float(np.asarray(y).reshape(16, -1).max(1).mean()) for y in outputs(X, training=training)]
    model.set_weights(before)
    return found


def test_ranges_of_an_untrained_network_are_those_of_its_training() -> None:
    model = net()
    expected, before = relu_maxima(model, True), model.get_weights()
    with pytest.warns(InitializationWarning, match=r"BatchNorm's statistics do not fit the data.*\(5 of 6 tensors"):
        assert first_scales(model, **NO_ADAPTATION) == pytest.approx(expected, rel=1e-4)
    for value, old in zip(model.get_weights(), before, strict=False):  # the plan's variables come after them
        np.testing.assert_array_equal(value, old)


def test_ranges_of_a_trained_network_are_those_of_inference() -> None:
    model = net()
    for _ in range(10):
        model(X, training=True)
    expected = relu_maxima(model, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InitializationWarning)
        assert first_scales(model) == pytest.approx(expected, rel=1e-4)


def test_frozen_layers_are_in_inference() -> None:
    model = net(trainable=False)
    expected = relu_maxima(model, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InitializationWarning)
        assert first_scales(model) == pytest.approx(expected, rel=1e-4)


def test_data_that_a_config_asks_for_have_to_be_registered() -> None:
    for initializer, found in (
        ({"range": {"num_init_samples": 10}}, "initializer.range: found no data to run 10 samples of for /nncf_model_input_0"),
        ({"batchnorm_adaptation": {}}, "initializer.batchnorm_adaptation: found no data to run 2000 samples"),
    ):
        with pytest.raises(ConfigError, match=f"{found}.*register_default_init_args"):
            create_compressed_model(net(1), config(**initializer))
    with pytest.warns(InitializationWarning, match="no data are registered, so the ranges of 3 activations"):
        create_compressed_model(net(1), config())


@pytest.mark.slow
def test_int8_from_scratch_trains_as_well_as_float() -> None:
    """Within one point on the digits, for two networks that have never been trained in floating point."""
    data, epochs, size = demo.load_digits(), 10, 64
    images, test = data.train_images[..., None], (data.test_images[..., None], data.test_labels)
    reached: dict[bool, list[float]] = {False: [], True: []}
    for seed in (0, 1):
        for compress in (False, True):
            keras.utils.set_random_seed(seed)
            model = digits_net((16, 16, 32, 32))
            if compress:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", InitializationWarning)
                    create_compressed_model(model, register_default_init_args(config(), (images, data.train_labels), size))
            decay: Any = keras.optimizers.schedules.CosineDecay(0.05, epochs * -(-len(images) // size))
            optimizer = keras.optimizers.SGD(decay, momentum=0.9, weight_decay=5e-4)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
            model.fit(images, data.train_labels, batch_size=size, epochs=epochs, verbose=0)
            reached[compress].append(model.evaluate(*test, verbose=0)[1])
    assert min(reached[False]) > 0.95
    assert sum(reached[True]) / 2 > sum(reached[False]) / 2 - 0.01, reached
