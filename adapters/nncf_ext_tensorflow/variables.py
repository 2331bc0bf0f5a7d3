"""The variables of a plan's transforms, held by one layer of the compressed model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nncf_ext.adapter import Values
from nncf_ext.checkpoint import MOST_STATE, CheckpointError
from nncf_ext.edits import Edit, Plan
from nncf_ext.files.finite import not_finite
from nncf_ext.files.json_text import Unreadable, refused_as, value_of
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.step_watch import StepWatch
from nncf_ext_tensorflow.keras_private import LayerWithLosses

HOLDER = "nncf_ext"  # the model's attribute, and the first part of the variables' paths
STATE = "controller_state"  # in a file, besides the variables: JSON, as bytes


class TransformVariables(LayerWithLosses):
    """Holds variables by edit and name; always float32 or what their first value is, never cast to a compute dtype.

    Among the `losses` of the model, and of any model around it, are those of the algorithms, once `forward_loss` is set. Once
    `watch` is, files of weights (ModelCheckpoint's, BackupAndRestore's) have the controller's state.
    """

    def __init__(self, plan: Plan, values: Values):
        super().__init__(name=HOLDER, dtype="float32", autocast=False)
        self.forward_loss: ForwardLoss | None = None
        self.watch: StepWatch | None = None
        self._state: Any = None  # of the controller, as it was loaded
        self._by_edit: dict[str, dict[str, keras.Variable]] = {}
        taken: set[str] = set()
        with keras.name_scope(HOLDER):
            for edit in plan:
                self._by_edit[edit.key] = {
                    name: self._make(_unique_name(f"{edit.key}.{name}", taken), np.asarray(var.value), var.trainable)
                    for name, var in values[edit.key].items()
                }
        self.built = True

    def of(self, edit: Edit) -> Mapping[str, keras.Variable]:
        return self._by_edit[edit.key]

    def own_losses(self) -> list[Any]:
        term = None if self.forward_loss is None else self.forward_loss.for_losses()
        return [] if term is None else [term]

    def specifications(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Shapes, dtypes and trainable flags as JSON data: enough to build the holder again."""
        return {
            key: {
                name: {"shape": list(v.shape), "dtype": keras.backend.standardize_dtype(v.dtype), "trainable": bool(v.trainable)}
                for name, v in variables.items()
            }
            for key, variables in self._by_edit.items()
        }

    def save_own_variables(self, store: Any) -> None:
        """The variables, and where the schedules are."""
        for variable in self.variables:
            store[variable.name] = variable
        if self.watch is not None:
            self._state = self.watch.state()
        if self._state is not None:
            store[STATE] = np.frombuffer(json.dumps(self._state).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """A file of the plain model has none: the variables then keep their values. A controller takes over the state.
        CheckpointError, and nothing changed here, where they are of another plan or damaged."""
        saved = set(store.keys()) - {STATE}
        names = {variable.name for variable in self.variables}
        if not saved:
            return
        if saved != names:
            odd = sorted(saved ^ names)[0]
            raise CheckpointError(f"the file holds a model compressed with another plan: {odd!r} is in only one of them")
        values = {variable.name: _value_in(store, variable) for variable in self.variables}
        state = _state_in(store)
        before = {variable.name: variable.numpy() for variable in self.variables}
        try:
            self._become(values, state)
        except BaseException:
            self._assign(before)
            raise

    def _become(self, values: Mapping[str, np.ndarray], state: Any) -> None:
        self._assign(values)
        if self.watch is not None and state is not None:
            self.watch.state_found(state)
        elif self.watch is not None:
            self.watch.weights_loaded()
        self._state = state

    def _assign(self, values: Mapping[str, np.ndarray]) -> None:
        for variable in self.variables:
            variable.assign(values[variable.name])

    def _make(self, name: str, value: np.ndarray, trainable: bool) -> keras.Variable:
        variable = self.add_weight(
            name=name, shape=value.shape, dtype=str(value.dtype), initializer="zeros", trainable=trainable, autocast=False
        )
        variable.assign(value)
        return variable


def _value_in(store: Any, variable: keras.Variable) -> np.ndarray:
    value = np.asarray(store[variable.name])
    if value.shape != tuple(variable.shape):
        found = f"{variable.name} has shape {list(value.shape)}"
        raise CheckpointError(f"the file holds another model: {found}, the model's {list(variable.shape)}")
    problem = not_finite(value, infinite=False)
    if problem:
        raise CheckpointError(f"the file's {variable.name}: {problem}, expected numbers")
    return value


def _state_in(store: Any) -> Any:
    """None where the file has none."""
    if STATE not in store.keys():  # noqa: SIM118 (no dict)
        return None
    content = np.asarray(store[STATE])
    with refused_as(CheckpointError, "the controller's state in the file"):
        if content.dtype != np.uint8 or content.ndim != 1:
            raise Unreadable(f"found {content.dtype}{list(content.shape)}, expected bytes")
        return value_of(content.tobytes(), MOST_STATE)


def to_numpy(array: Any) -> np.ndarray:
    tensor: Any = keras.ops.convert_to_tensor(array)
    return np.asarray(tensor.numpy())


def _unique_name(text: str, taken: set[str]) -> str:
    """`text` in the characters that TensorFlow and HDF5 allow in a name."""
    name = re.sub(r"[^A-Za-z0-9_.]", ".", text).lstrip("._")
    while name in taken:
        name += "_"
    taken.add(name)
    return name
