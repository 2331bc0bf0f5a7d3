"""The contract on the Keras adapter."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter

from nncf_ext import NNCFConfig
from tests.contract import precision
from tests.contract.cases import CASES
from tests.contract.contract import check_numbers, check_resume, check_strip
from tests.contract.mistakes import MISTAKES, check_mistake, check_wrong_checkpoints


class KerasDriver:
    def build(self, weights: dict[str, np.ndarray]) -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(len(weights["fc1.bias"]), name="fc1"),
                keras.layers.ReLU(name="relu"),
                keras.layers.Dense(3, name="fc2"),
            ]
        )
        model.set_weights(list(weights.values()))
        return model

    def compress(self, model: keras.Model, config: NNCFConfig, batches: Any, state: Any = None) -> Any:
        if batches is not None:
            register_default_init_args(config, [(x, None) for x in batches], 8)
        return create_compressed_model(model, config, copy.deepcopy(state))[0]

    def compress_labelled(self, model: keras.Model, config: NNCFConfig, pairs: Any, **functions: Any) -> Any:
        register_default_init_args(config, list(pairs), 8, **{"criterion": "mse", **functions})
        return create_compressed_model(model, config)[0]

    def traced(self, model: keras.Model) -> tuple[Any, Any]:
        adapter = KerasAdapter()
        return adapter, adapter.trace(model)

    def labelled(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        return keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)

    def mean_squared_error(self, outputs: Any, target: Any) -> Any:
        return keras.ops.mean(keras.ops.square(outputs - target))

    def outputs(self, model: keras.Model, x: np.ndarray, training: bool) -> np.ndarray:
        return np.asarray(model(x, training=training))

    def train_step(self, controller: Any, x: np.ndarray, y: np.ndarray, rate: float) -> float:
        model = controller.model
        with tf.GradientTape() as tape:
            loss = controller.total_loss(tf.reduce_mean(tf.square(model(x, training=True) - y)))
        variables = model.trainable_variables
        pairs = zip(tape.gradient(loss, variables), variables, strict=True)
        keras.optimizers.SGD(rate).apply_gradients([(gradient, variable) for gradient, variable in pairs if gradient is not None])
        return float(loss)

    def weights(self, model: keras.Model) -> dict[str, np.ndarray]:
        layers = {layer.name: layer for layer in model.layers}
        return {
            f"{name}.{slot}": np.asarray(getattr(layers[name], attribute))
            for name in ("fc1", "fc2")
            for slot, attribute in (("weight", "kernel"), ("bias", "bias"))
        }

    def to_reference(self, role: str, array: np.ndarray) -> np.ndarray:
        return array


DRIVER = KerasDriver()
ROWS = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@ROWS
def test_numbers(case):
    check_numbers(DRIVER, case)


@ROWS
def test_resume(case, tmp_path):
    check_resume(DRIVER, case, tmp_path)


@ROWS
def test_strip(case):
    check_strip(DRIVER, case)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_mistake(mistake):
    check_mistake(DRIVER, mistake)


def test_wrong_checkpoints(tmp_path):
    check_wrong_checkpoints(DRIVER, tmp_path)


def test_hessian():
    precision.check_hessian(DRIVER)


def test_estimated_traces(tmp_path):
    precision.check_estimated_traces(DRIVER, tmp_path)


def test_hawq_is_the_best(tmp_path):
    precision.check_hawq_is_the_best(DRIVER, tmp_path)


def test_autoq(tmp_path):
    precision.check_autoq(DRIVER, tmp_path)


def test_choice_of_bits_is_saved(tmp_path):
    precision.check_choice_is_saved(DRIVER, tmp_path)


def test_search_of_clip_q():
    precision.check_clip_q_search(DRIVER)
