"""The variables of a plan's transforms, held by one layer of the compressed model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from nncf_ext.adapter import Values
from nncf_ext.edits import Edit, Plan
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
        """A file of the plain model has none: the variables then keep their values. A controller takes over the state."""
        saved = set(store.keys()) - {STATE}
        names = {variable.name for variable in self.variables}
        if not saved:
            return
        if saved != names:
            odd = sorted(saved ^ names)[0]
            raise ValueError(f"the file holds a model compressed with another plan: {odd!r} is in only one of them")
        for variable in self.variables:
            variable.assign(store[variable.name])
        self._state = json.loads(np.asarray(store[STATE]).tobytes()) if STATE in store.keys() else None  # noqa: SIM118 (no dict)
        if self.watch is not None and self._state is not None:
            self.watch.state_found(self._state)
        elif self.watch is not None:
            self.watch.weights_loaded()

    def _make(self, name: str, value: np.ndarray, trainable: bool) -> keras.Variable:
        variable = self.add_weight(
            name=name, shape=value.shape, dtype=str(value.dtype), initializer="zeros", trainable=trainable, autocast=False
        )
        variable.assign(value)
        return variable


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
