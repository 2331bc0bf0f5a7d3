"""The students of `results.py` in Keras, in a process of their own: `python -m benchmarks.results_students_keras SEED`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks
from nncf_ext_tensorflow.demo import digits_net

from benchmarks.contest import Result, report_result
from benchmarks.results_students import (
    CUT_STEPS,
    EPOCH,
    FALL,
    FALLS,
    RATE,
    SMALL,
    STEPS,
    STUDENTS,
    TEACHER_STEPS,
    UNKNOWN,
    Batches,
    Student,
    cut,
    left,
)
from nncf_ext import NNCFConfig

INPUT = {"sample_size": [1, 8, 8, 1]}


def train(model: keras.Model, batches: Iterable[tuple[np.ndarray, np.ndarray]], steps: int, ctrl: Any = None) -> None:
    rates: Any = keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(share * steps) for share in FALLS], [RATE, FALL * RATE, FALL**2 * RATE]
    )
    optimizer = keras.optimizers.SGD(rates, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNKNOWN))
    callbacks = [] if ctrl is None else create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    stream = iter(batches)
    for epoch, group in enumerate(iter(lambda: list(islice(stream, EPOCH)), [])):
        images, labels = (np.concatenate(parts) for parts in zip(*group, strict=True))
        model.fit(
            images[..., None],
            labels,
            batch_size=len(labels) // len(group),
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            callbacks=callbacks,
            verbose=0,
        )


def accuracy(model: Any, data: Any) -> float:
    outputs = model(data.test_images[..., None], training=False)
    return float((np.argmax(outputs, 1) == data.test_labels).mean())


def graduate(student: Student, teacher: keras.Model, batches: Batches, seed: int) -> dict[str, float]:
    keras.utils.set_random_seed(seed)
    ctrl, model = create_compressed_model(digits_net(SMALL), NNCFConfig.from_dict(student.config(INPUT)), teacher=teacher)
    train(model, batches.of(student), STEPS, ctrl)
    plain = ctrl.strip(quantizers=False)
    weights = [variable for variable in plain.trainable_variables if len(variable.shape) > 1]
    if student.share is not None:
        for weight, value in zip(weights, cut([w.numpy() for w in weights], student.share), strict=True):
            weight.assign(value)
        config = NNCFConfig.from_dict(student.config_after_the_cut(INPUT))
        ctrl, model = create_compressed_model(plain, config, teacher=teacher)
        train(model, batches.of(student, CUT_STEPS), CUT_STEPS, ctrl)
        plain = ctrl.strip(do_copy=False)
    return {"accuracy": accuracy(plain, batches.data), "left": left([w.numpy() for w in weights])}


def results(seed: int) -> Result:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(seed)
    batches, teacher = Batches(seed), digits_net()
    train(teacher, batches.of_teacher(), TEACHER_STEPS)
    found = {name: graduate(student, teacher, batches, seed) for name, student in STUDENTS.items()}
    return {"teacher": accuracy(teacher, batches.data), "students": found}


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
