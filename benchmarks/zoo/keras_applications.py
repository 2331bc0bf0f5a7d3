"""All of keras.applications, with random weights and small inputs."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import applications

from benchmarks.zoo.keras_subject import KerasSubject

NAMES = tuple(sorted(name for name in dir(applications) if name[0].isupper()))
# TensorFlow takes minutes to optimize graphs of so many nodes, for two steps.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

_SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


def subject(name: str) -> KerasSubject:
    size = _SMALLEST.get(name, 64)

    def build() -> keras.Model:
        return getattr(applications, name)(weights=None, input_shape=(size, size, 3), classes=10)

    # XLA compiles each of these for minutes, for two steps; the idioms are compiled by it
    return KerasSubject(build, np.random.default_rng(0).random((2, size, size, 3), np.float32), jit_compile=False)
