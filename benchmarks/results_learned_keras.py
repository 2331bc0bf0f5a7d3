"""The Keras rows of `results_learned.py`, in a process of their own: `python -m benchmarks.results_learned_keras SEED`."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model

from benchmarks import networks_keras, tasks
from benchmarks.contest import Result, report_result
from benchmarks.results_learned import BATCH, EPOCHS, FLOAT_EPOCHS, OWN_RATE, RATE, ROWS, entries
from nncf_ext import NNCFConfig

MADE = {"LeNet-300-100": networks_keras.lenet_300_100, "LeNet-5": networks_keras.lenet_5}


def fit(model: keras.Model, data: tasks.Data, epochs: int, seed: int, ctrl: Any = None) -> None:
    """A loop of our own, because gates, noise and thresholds have a learning rate of their own."""
    steps = epochs * -(-len(data.train_y) // BATCH)
    own = [v for v in model.trainable_variables if v.path.startswith("nncf_ext")]
    weights = [v for v in model.trainable_variables if not v.path.startswith("nncf_ext")]
    optimizers = [
        (keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), variables)
        for rate, variables in ((RATE, weights), (OWN_RATE, own))
        if variables
    ]
    task_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = task_loss(y, model(x, training=True))
            if ctrl is not None:
                loss = loss + ctrl.loss()
        gradients = tape.gradient(loss, weights + own)
        for optimizer, variables in optimizers:
            first = 0 if variables is weights else len(weights)
            optimizer.apply_gradients(zip(gradients[first : first + len(variables)], variables, strict=True))

    order = np.random.default_rng(seed)
    for _ in range(epochs):
        if ctrl is not None:
            ctrl.scheduler.epoch_step()
        rows = order.permutation(len(data.train_y))
        for start in range(0, len(rows), BATCH):
            if ctrl is not None:
                ctrl.scheduler.step()
            batch = rows[start : start + BATCH]
            step(tf.constant(data.train_x[batch][..., None]), tf.constant(data.train_y[batch]))


def accuracy(model: Any, data: tasks.Data) -> float:
    return float((np.argmax(model(data.test_x[..., None], training=False), -1) == data.test_y).mean())


def results(seed: int) -> Result:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data, found = tasks.large_digits(), {}
    for network in ROWS:
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        model = MADE[network]()
        fit(model, data, FLOAT_EPOCHS, seed)
        start = model.get_weights()
        keras.utils.set_random_seed(seed)
        fit(model, data, EPOCHS, seed)
        found[network] = {"float": accuracy(model, data)}
        for name, entry in entries(network, found[network]):
            keras.utils.set_random_seed(seed)
            compressed = MADE[network]()
            compressed.set_weights(start)
            ctrl, compressed = create_compressed_model(compressed, NNCFConfig.from_dict({"compression": entry}))
            fit(compressed, data, EPOCHS, seed, ctrl)
            level = getattr(ctrl.statistics(), entry["algorithm"]).sparsity_level_for_layers
            found[network][name] = {"accuracy": accuracy(ctrl.strip(), data), "left": 1 - float(level)}
    return found


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
