"""The Keras rows of `results_packed.py`, in a process of their own: `python -m benchmarks.results_packed_keras SEED PART`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args
from nncf_ext_tensorflow.demo import digits_net
from safetensors.numpy import save_file

from benchmarks import networks_keras, tasks
from benchmarks.contest import report_result
from benchmarks.results_packed import FLOAT, NETWORKS, Compression, results
from nncf_ext import NNCFConfig

MADE: dict[str, Callable[[], keras.Model]] = {
    "LeNet-300-100": networks_keras.lenet_300_100,
    "LeNet-5": networks_keras.lenet_5,
    "residual network": digits_net,
    "SqueezeNet": lambda: networks_keras.squeezenet(10, 1, NETWORKS["SqueezeNet"].side),
}
task_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class KerasTrained:
    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.folder, self._network, self._seed = folder, NETWORKS[name], seed
        data = tasks.digits() if self._network.side == 8 else tasks.large_digits(self._network.side)
        self._x, self._y = data.train_x[..., None], data.train_y
        self.test = np.ascontiguousarray(data.test_x[..., None]), data.test_y
        self._make = MADE[name]
        self._model = self._made()
        self._fit(self._model, self._network.epochs, self._network.rate)
        save_file({v.path: np.asarray(v) for v in self._model.weights}, folder / FLOAT)

    def _made(self) -> keras.Model:
        keras.utils.clear_session()  # the layers' names start from the beginning
        keras.utils.set_random_seed(self._seed)
        return self._make()

    def compressed(self, compression: Compression) -> Any:
        model = self._made()
        model.set_weights(self._model.get_weights())
        config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, *self._x.shape[1:]]}, "compression": compression})
        batch = self._network.batch
        loader = [(self._x[i : i + batch], self._y[i : i + batch]) for i in range(0, len(self._y), batch)]
        register_default_init_args(config, loader, batch, criterion=task_loss)
        return create_compressed_model(model, config)[0]

    def fit(self, ctrl: Any, epochs: int, rate: float) -> None:
        self._fit(ctrl.model, epochs, rate, create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False))

    def _fit(self, model: keras.Model, epochs: int, rate: float, callbacks: Any = ()) -> None:
        steps = epochs * -(-len(self._y) // self._network.batch)
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), task_loss)
        model.fit(self._x, self._y, batch_size=self._network.batch, epochs=epochs, callbacks=list(callbacks), verbose=0)

    def accuracy(self, ctrl: Any = None) -> float:
        model = self._model if ctrl is None else ctrl.model
        x, y = self.test
        return float((np.argmax(model(x, training=False), -1) == y).mean())


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    report_result(lambda: results(KerasTrained, int(sys.argv[1]), sys.argv[2]))
