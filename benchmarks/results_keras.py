"""The Keras rows of `results.py`, in a process of their own: `python -m benchmarks.results_keras SEED`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args
from nncf_ext_tensorflow.demo import compile_model, digits_net

from benchmarks.contest import Result, report_result
from benchmarks.results import EPOCHS, FLOAT_EPOCHS, FLOAT_RATE, IMAGE_ROWS, RATE, Row, measured
from nncf_ext import NNCFConfig
from nncf_ext.tools import demo

task_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def accuracy(model: Any, data: demo.Digits) -> float:
    logits = model(data.test_images[..., None], training=False)
    return float((np.argmax(logits, 1) == data.test_labels).mean())


def fit(model: keras.Model, data: demo.Digits, rate: float, epochs: int, callbacks: Any = ()) -> None:
    compile_model(model, rate, epochs, -(-len(data.train_labels) // demo.BATCH_SIZE))
    model.fit(
        data.train_images[..., None],
        data.train_labels,
        batch_size=demo.BATCH_SIZE,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def trained(data: demo.Digits, seed: int, network: Callable[[], keras.Model]) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = network()
    fit(model, data, FLOAT_RATE, FLOAT_EPOCHS)
    return model


def compressed(
    model: keras.Model, copy: keras.Model, data: demo.Digits, row: Row, seed: int, folder: Path, epochs: int
) -> dict[str, Any]:
    """What `measured` says of `copy` with the weights of `model`, compressed as the row says and trained on."""
    keras.utils.set_random_seed(seed + 100)
    copy.set_weights(model.get_weights())
    config = NNCFConfig.from_dict(row.config({"sample_size": [1, 8, 8, 1]}))
    images, labels = data.train_images[..., None], data.train_labels
    starts = range(0, len(images), demo.BATCH_SIZE)
    loader = [(images[i : i + demo.BATCH_SIZE], labels[i : i + demo.BATCH_SIZE]) for i in starts]
    ctrl, copy = create_compressed_model(copy, register_default_init_args(config, loader, demo.BATCH_SIZE, criterion=task_loss))
    fit(copy, data, RATE, epochs, create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False))
    test = np.ascontiguousarray(data.test_images[..., None])
    return measured(ctrl, lambda kind: accuracy(kind, data), folder / "compressed.onnx", test, data.test_labels)


def results(
    seed: int,
    rows: Mapping[str, Row] = IMAGE_ROWS,
    network: Callable[[], keras.Model] = digits_net,
    epochs: int = EPOCHS,
) -> Result:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = demo.load_digits()
    model = trained(data, seed, network)
    with tempfile.TemporaryDirectory() as folder:
        outcome = {name: compressed(model, network(), data, row, seed, Path(folder), epochs) for name, row in rows.items()}
    return {"float": accuracy(model, data), "rows": outcome}


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
