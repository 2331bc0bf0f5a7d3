"""A Keras model as a subject of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args
from nncf_ext_tensorflow.batchnorm import adapt_batchnorm
from nncf_ext_tensorflow.naming import names_in

from benchmarks.zoo.row import OUTPUTS
from nncf_ext import NNCFConfig


def mean_square(_: Any, outputs: Any) -> Any:
    """A loss for any output."""
    return keras.ops.mean(keras.ops.square(keras.ops.cast(outputs, "float32")))


@dataclass
class KerasSubject:
    """build() makes the model; batch: its inputs; jit_compile: as in `compile`.

    BatchNorm has the batch's statistics, as it would have after any training.
    """

    build: Callable[[], keras.Model]
    batch: Any
    jit_compile: bool | str = "auto"
    varying: bool = False
    distilled: Mapping[str, Any] = field(default_factory=lambda: OUTPUTS)

    def __post_init__(self) -> None:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        self.model = self.build()
        outputs = self.model(self.batch)
        adapt_batchnorm(self.model, names_in(self.model).batch_norms, [self.batch])
        rows = len(keras.tree.flatten(self.batch)[0])
        targets = keras.tree.map_structure(lambda _: np.zeros(rows, np.float32), outputs)
        self._data = tf.data.Dataset.from_tensor_slices((self.batch, targets)).batch(rows)
        self._rows = rows

    def weights(self, model: keras.Model) -> int:
        return int(sum(np.prod(variable.shape) for variable in model.variables if "nncf_ext" not in variable.path))

    def fresh(self) -> keras.Model:
        keras.utils.clear_session()
        model = self.build()
        model(self.batch)
        for mine, theirs in zip(model.variables, self.model.variables, strict=True):
            mine.assign(theirs)
        return model

    def compress(self, model: keras.Model, algorithms: Sequence[Mapping[str, Any]], state: Any = None) -> tuple[Any, keras.Model]:
        config = NNCFConfig.from_dict({"compression": [dict(algorithm) for algorithm in algorithms]})
        register_default_init_args(config, self._data, self._rows)
        return create_compressed_model(model, config, compression_state=state)

    def outputs(self, model: keras.Model) -> list[np.ndarray]:
        return [np.asarray(x) for x in keras.tree.flatten(model(self.batch, training=False))]

    def train(self, controller: Any, model: keras.Model, steps: int) -> tuple[list[float], set[str]]:
        """Epochs of one step with `fit`; gradients from one tape more."""
        keras.utils.set_random_seed(1)
        if not model.compiled:
            model.compile(keras.optimizers.SGD(1e-4), mean_square, jit_compile=self.jit_compile)
        callbacks = create_compression_callbacks(controller, log_text=False, log_tensorboard=False)
        losses = model.fit(self._data, epochs=steps, verbose=0, callbacks=callbacks).history["loss"]
        return [float(loss) for loss in losses], self._reached(model)

    def trained_float(self) -> set[str]:
        return self._reached(self.fresh())

    def export_float(self, path: Path) -> None:
        self.fresh().export(path, format="onnx", verbose=False)

    def _reached(self, model: keras.Model) -> set[str]:
        weights = [variable for variable in model.trainable_variables if "nncf_ext" not in variable.path]
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(model(self.batch, training=True))
            loss = sum(mean_square(None, x) for x in outputs if keras.backend.is_float_dtype(x.dtype))
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        named = {str(i): tf.convert_to_tensor(g) for i, g in enumerate(gradients) if g is not None}
        broken = [name for name, gradient in named.items() if not np.isfinite(gradient.numpy()).all()]
        if broken:
            raise ValueError(f"the gradient of {weights[int(broken[0])].path} is not finite ({len(broken)} of them)")
        return {weights[int(name)].name + str(weights[int(name)].shape) for name in named}
