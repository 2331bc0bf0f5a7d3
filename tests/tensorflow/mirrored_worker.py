"""A small training on one and on two logical CPUs, as a process of its own: devices are set before TensorFlow starts."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import NNCFConfig
from nncf_ext.tools import demo


def train(strategy: Any, compression: list[Any]) -> dict[str, Any]:
    digits = demo.load_digits()
    x, y = digits.train_images[:256].reshape(-1, 64), digits.train_labels[:256]
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else nullcontext():
        layers = [keras.Input((64,)), keras.layers.Dense(32, "relu", name="a"), keras.layers.Dense(10, name="b")]
        model = keras.Sequential(layers)
        config = NNCFConfig.from_dict({"compression": compression})
        register_default_init_args(config, [(x[:64], y[:64])], 64)
        ctrl, _ = create_compressed_model(model, config)
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    history = model.fit(data, epochs=3, callbacks=create_compression_callbacks(ctrl, log_text=False), verbose=0)
    weights = {weight.path: np.array(weight).tolist() for weight in model.weights}
    return {"weights": weights, "loss": history.history["loss"], "state": ctrl.get_state()}


if __name__ == "__main__":
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    replicas = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    print(
        json.dumps([[train(strategy, compression) for strategy in (None, replicas)] for compression in json.loads(sys.argv[1])])
    )
