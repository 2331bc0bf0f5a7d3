"""What damaged checkpoints, states and files of weights do to a controller in Keras. Not in one process with PyTorch."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter
from nncf_ext_tensorflow.variables import STATE

from tests.fuzz.controllers import COMPRESSIONS, Framework, config, targets
from tests.fuzz.damage import as_text, damaged_bytes, damaged_data

L = keras.layers
_X = np.linspace(-1, 1, 2 * 36 * 3, dtype=np.float32).reshape(2, 6, 6, 3)
_OURS = "nncf_ext/vars"


def _net() -> Any:
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(16, 3), L.ReLU(), L.Dropout(0.2), L.Conv2D(16, 3), L.Flatten(), L.Dense(5)]
    return keras.Sequential([keras.Input((6, 6, 3)), *layers])


def _create(compression: Sequence[Mapping[str, Any]], state: Any) -> tuple[Any, Any]:
    ours = register_default_init_args(config(compression, [1, 6, 6, 3]), [(_X, np.zeros(2))], 2)
    return create_compressed_model(_net(), ours, compression_state=state)


def _step(controller: Any, model: Any) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(_X, training=True)) + controller.loss()
    tape.gradient(loss, model.trainable_variables)


FRAMEWORK = Framework(_create, _step, KerasAdapter().tensors, KerasAdapter().load_tensors)


def weights(folder: Path, rng: random.Random) -> str | None:
    """What transforms and the controller have in a file of Keras' own; what is Keras' in it, Keras reads."""
    number = rng.randrange(len(COMPRESSIONS))
    whole, path = folder / f"{number}.weights.h5", folder / "x.weights.h5"
    if not whole.exists():
        FRAMEWORK.subject(number)[1].save_weights(whole)
    shutil.copy(whole, path)
    with h5py.File(path, "r+") as file:
        _damage(rng, file[_OURS])
    return FRAMEWORK.attempt(number, lambda _, model: model.load_weights(path), ValueError)


def _damage(rng: random.Random, ours: Any) -> None:
    state = ours[STATE][()].tobytes()
    kind = rng.random()
    if kind < 0.6:
        _replace(ours, STATE, np.frombuffer(as_text(damaged_data(rng, json.loads(state))), np.uint8))
    elif kind < 0.8:
        _replace(ours, STATE, np.frombuffer(damaged_bytes(rng, state), np.uint8))
    else:
        name = rng.choice(sorted(ours))
        value = ours[name][()]
        odd = [value[..., None], value.astype(np.float64) * np.nan, np.zeros(0), np.array(b"x"), value.reshape(-1)[:1]]
        _replace(ours, name, rng.choice(odd))


def _replace(ours: Any, name: str, value: Any) -> None:
    del ours[name]
    ours[name] = value


TARGETS = {f"{name} (Keras)": target for name, target in targets(FRAMEWORK).items()} | {
    "files of weights loaded into a model (Keras)": weights
}
