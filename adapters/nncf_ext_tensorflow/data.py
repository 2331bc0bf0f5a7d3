"""What `nncf_ext.data` asks of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from nncf_ext.calibration.initialization import micro_batches
from nncf_ext.data import Input, ModelInputs
from nncf_ext_tensorflow import keras_private


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
        return micro_batches((inputs, target), int(keras.tree.flatten(inputs)[0].shape[0]))


def expected_inputs(model: Any, example: Any = None) -> ModelInputs:
    """The input layers of a model that knows them; of others, what `example` has."""
    functional = keras_private.functional_of(model)
    if functional is not None:
        own = functional._inputs_struct
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
