"""The contract on the Keras adapter."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter

from nncf_ext import NNCFConfig
from tests.contract.rows import ContractTests


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


class TestKeras(ContractTests):
    driver = KerasDriver()
