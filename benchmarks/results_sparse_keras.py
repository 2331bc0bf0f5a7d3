"""The Keras rows of `results_sparse.py`, in a process of their own: `python -m benchmarks.results_sparse_keras SEED`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks
from nncf_ext_tensorflow.demo import digits_net

from benchmarks import networks_keras, tasks
from benchmarks.contest import Result, report_result
from benchmarks.results_sparse import FITTED, NETWORKS, Schedule, config, runs
from nncf_ext import NNCFConfig

MADE: dict[str, tuple[Callable[[], keras.Model], Callable[[], tasks.Data]]] = {
    "LeNet-300-100": (networks_keras.lenet_300_100, tasks.large_digits),
    "LeNet-5": (networks_keras.lenet_5, tasks.large_digits),
    "residual network": (digits_net, tasks.digits),
    "SqueezeNet": (lambda: networks_keras.squeezenet(10, 1, 48), lambda: tasks.large_digits(48)),
    "decoder": (networks_keras.decoder, tasks.characters),
}


def trained(name: str, method: str, level: float, schedule: Schedule, seed: int) -> dict[str, float]:
    """Accuracy after training from scratch; method: of dynamic_sparse_training, or "" for none."""
    make, load = MADE[name.removesuffix(FITTED)]
    data = load()
    x, test_x = (part[..., None] if part.dtype == np.float32 else part for part in (data.train_x, data.test_x))
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = make()
    steps = schedule.epochs * -(-len(x) // schedule.batch)
    ctrl, callbacks = None, []
    if method:
        ctrl, model = create_compressed_model(
            model, NNCFConfig.from_dict({"compression": config(method, level, steps, schedule)})
        )
        callbacks = create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    falling = keras.optimizers.schedules.CosineDecay(schedule.rate, steps)
    adam, sgd = keras.optimizers.AdamW, keras.optimizers.SGD
    # without the bound on gradients one seed's dense LeNet-5 dies in its first steps
    optimizer = adam(falling) if schedule.adam else sgd(falling, momentum=0.9, weight_decay=5e-4, global_clipnorm=2.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, data.train_y, batch_size=schedule.batch, epochs=schedule.epochs, callbacks=callbacks, verbose=0)
    accuracy = float((np.argmax(model.predict(test_x, verbose=0), -1) == data.test_y).mean())
    if ctrl is None:
        return {"accuracy": accuracy}
    report = ctrl.statistics().dynamic_sparse_training
    return {"accuracy": accuracy, "training_flops": report.training_flops, "inference_flops": report.inference_flops}


def results(seed: int) -> Result:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return {
        name: {
            "dense": trained(name, "", 0.0, schedule, seed),
            **{run: trained(name, method, level, own, seed) for run, method, level, own in runs(name)},
        }
        for name, schedule in NETWORKS.items()
    }


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
