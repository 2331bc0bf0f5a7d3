"""What `nncf_ext.data` asks of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nncf_ext.calibration.initialization import micro_batches
from nncf_ext.data import Input, ModelInputs
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.naming import named_inputs


class KerasData:
    """`nncf_ext.data.Framework`."""

    def expected(self, model: Any, example: Any = None) -> ModelInputs:
        return expected_inputs(model, example)

    def items(self, data: Any) -> tuple[Callable[[], Iterable[Any]], bool] | None:
        if isinstance(data, keras.utils.PyDataset):
            return lambda: (data[i] for i in range(data.num_batches or 0)), False
        return None

    def taken_apart(self, data: Any, batch: Any) -> tuple[Any, Any] | None:
        return None

    def inputs(self, structure: Any) -> Any:
        return _tensors(structure)

    def target(self, structure: Any) -> Any:
        return None if structure is None else _tensors(structure)

    def stacked(self, values: Sequence[Any]) -> Any:
        found = np.stack([np.asarray(value) for value in values])
        if found.dtype == object:
            raise TypeError("no numbers")
        return found

    def micro_batches(self, inputs: Any, target: Any) -> Iterator[tuple[Any, Any]]:
        return micro_batches((inputs, target), self.samples(inputs))

    def samples(self, inputs: Any) -> int:
        return int(keras.tree.flatten(inputs)[0].shape[0])

    def named(self, model: Any, inputs: Any) -> dict[str, Any]:
        return named_inputs(model, inputs)

    def resized(self, model: Any, inputs: Any, sizes: Mapping[str, Mapping[int, int]]) -> Any:
        resized: list[Any] = []
        x: Any
        for name, x in named_inputs(model, inputs).items():
            for axis, size in sizes.get(name, {}).items():
                x = keras.ops.take(x, np.arange(size) % int(x.shape[axis]), axis)
            resized.append(x)
        return keras.tree.pack_sequence_as(inputs, resized)

    def flatten(self, outputs: Any) -> list[tuple[str, Any]]:
        found = [(path, x) for path, x in keras.tree.flatten_with_path(outputs) if keras.ops.is_tensor(x)]
        return [(".".join(map(str, path)), x) for path, x in found if keras.backend.is_float_dtype(x.dtype)]

    def on_host(
        self, function: Callable[..., Sequence[np.ndarray]], arrays: Sequence[Any], like: Sequence[tuple[tuple[int, ...], str]]
    ) -> list[Any]:
        """Not under XLA, which cannot leave the device: compile with jit_compile=False where Keras would use it."""
        results = tf.numpy_function(lambda *given: list(function(*given)), list(arrays), [dtype for _, dtype in like])
        for result, (shape, _) in zip(results, like, strict=True):
            result.set_shape((None, *shape))
        return list(results)

    def read_tensor(self, path: Path) -> np.ndarray:
        raise ValueError("Keras has no files of one tensor: expected .npy, .safetensors or .json")


def expected_inputs(model: Any, example: Any = None) -> ModelInputs:
    """The input layers of a model that knows them; of others, what `example` has."""
    functional = keras_private.functional_of(model)
    if functional is not None:
        own = functional.input
        is_named = isinstance(own, Mapping)
        names = own if is_named else {x.name: x for x in keras.tree.flatten(own)}
        taken = tuple(Input(str(name), _taken(x.shape)) for name, x in names.items())
        return ModelInputs(taken, by="name" if is_named else "order")
    if example is None:
        return ModelInputs()
    named = example if isinstance(example, Mapping) else {f"input {n}": x for n, x in enumerate(keras.tree.flatten(example))}
    return ModelInputs(tuple(Input(name, ((None,) * len(x.shape),)) for name, x in named.items()))


def _taken(shape: tuple[int | None, ...]) -> tuple[tuple[int | None, ...], ...]:
    """Keras adds a last axis of size 1 where that makes data fit."""
    shape = (None, *shape[1:])
    return (shape, shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else (shape,)


def _tensors(structure: Any) -> Any:
    return keras.tree.map_structure(_tensor, structure)


def _tensor(value: Any) -> Any:
    """numpy's default float64 as Keras' default, as in `fit`."""
    is_double = isinstance(value, np.ndarray | np.floating) and value.dtype == np.float64
    return keras.ops.convert_to_tensor(value, keras.config.floatx() if is_double else None)
