"""The hook around the steps of Keras' optimizers (`nncf_ext.optimizer_hook`), by those of `optimizer_steps`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from nncf_ext.edits import Edit
from nncf_ext.graph import Site
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.optimizer_steps import ignore, listen


class Placed(Protocol):
    """An edit at work. off: what a compiled function reads."""

    edit: Edit
    enabled: bool
    off: keras.Variable | None

    def make_switchable(self) -> None: ...

    def set_enabled(self, enabled: bool) -> bool: ...

    def masked(self, x: Any) -> Any: ...


class KerasOptimizerHook:
    """Of one model. placed: by edit key. parameters: at the plan's sites.

    Dense gradients go into variables, which functions of TensorFlow that were traced long before can write; over replicas they
    are summed, as optimizers do. A `tf.function` of the user's that was traced before the model was compressed has to be traced
    anew.
    """

    def __init__(self, placed: Mapping[str, Placed], parameters: Mapping[Site, keras.Variable]):
        self._placed, self._parameters = placed, parameters
        self._ids = {id(parameter) for parameter in parameters.values()}
        self._dense: dict[int, str] = {}  # by the parameter's id, the edit's key
        self._stores: dict[str, keras.Variable] = {}
        self._stepped: keras.Variable | None = None
        self._after: dict[int, tuple[keras.Variable, Callable[[Any], Any]]] = {}  # by the parameter's id
        self._is_waiting = self._is_listening = False
        self._arrived: Callable[[], None] = lambda: None
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()

    def listen(self, dense: Iterable[Edit] = (), after: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
        for edit in dense:
            if edit.key not in self._stores:
                self._keep_gradients_of(edit)
        for key, change in (after or {}).items():
            parameter = self._parameters[self._placed[key].edit.site]
            self._after[id(parameter)] = parameter, change
        if not self._is_listening:
            self._is_listening = True
            listen(self)

    def _keep_gradients_of(self, edit: Edit) -> None:
        parameter = self._parameters[edit.site]
        self._placed[edit.key].make_switchable()
        self._dense[id(parameter)] = edit.key
        self._stores[edit.key] = keras.Variable(
            tf.zeros(parameter.shape), trainable=False, synchronization="on_read", aggregation="sum", name="dense_gradient"
        )
        if self._stepped is None:
            self._stepped = keras.Variable(False, dtype="bool", trainable=False, name="stepped")

    def end(self) -> None:
        ignore(self)

    def request_dense_gradients(self, arrived: Callable[[], None]) -> None:
        self._is_waiting, self._arrived = True, arrived
        if self._stepped is not None:
            self._stepped.assign(False)
        self._set_enabled(False)

    def dense_gradients(self) -> Mapping[str, Any] | None:
        if not self._is_waiting or self._stepped is None or not bool(self._stepped.numpy()):
            return None
        self._is_waiting = False
        self._set_enabled(True)
        return {key: keras.ops.convert_to_tensor(store) for key, store in self._stores.items()}

    def _set_enabled(self, enabled: bool) -> None:
        for key in self._stores:
            self._placed[key].set_enabled(enabled)

    def scale_parameter_and_moments(self, site: Site, factor: Any) -> None:
        parameter = self._parameters[site]
        for variable in (parameter, *self.states_of(parameter)):
            variable.assign(keras.ops.multiply(variable, keras.ops.cast(factor, variable.dtype)))

    def second_moment(self, site: Site) -> Any:
        states = self.states_of(self._parameters[site])
        return next((keras.ops.convert_to_tensor(state) for state in states if state.name.endswith("velocity")), None)

    def states_of(self, parameter: keras.Variable) -> list[keras.Variable]:
        """The variables of the parameter's shape that optimizers keep for it."""
        return [state for optimizer in self._optimizers for state in keras_private.optimizer_states(optimizer, parameter)]

    def before_step(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The gradients that the optimizer gets."""
        if not self._trains(variables):
            return list(gradients)
        self._optimizers.add(optimizer)
        return [self._seen(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]

    def after_step(self, optimizer: Any, variables: Sequence[Any]) -> None:
        changes = [self._after[id(variable)] for variable in variables if id(variable) in self._after]
        if changes:
            keras_private.after_whole_steps(optimizer, lambda: [_change(parameter, change) for parameter, change in changes])
        if self._is_waiting and tf.executing_eagerly():
            self._arrived()

    def _trains(self, variables: Sequence[Any]) -> bool:
        return any(id(variable) in self._ids for variable in variables)

    def _seen(self, gradient: Any, variable: Any) -> Any:
        if gradient is None or id(variable) not in self._dense:
            return gradient
        key = self._dense[id(variable)]
        mask, stepped = self._placed[key], self._stepped
        assert stepped is not None
        dense = tf.convert_to_tensor(gradient)

        def catch() -> Any:
            self._stores[key].assign(dense)
            stepped.assign(True)
            return mask.masked(dense)

        if tf.executing_eagerly():
            return gradient if mask.enabled else catch()
        off: Any = mask.off
        return tf.cond(tf.convert_to_tensor(off), catch, lambda: dense)


def _change(parameter: keras.Variable, change: Callable[[Any], Any]) -> None:
    """On every replica, which all hold the same."""
    keras_private.assign_on_replicas(parameter, change(keras.ops.convert_to_tensor(parameter)))
