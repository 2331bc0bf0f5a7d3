"""Gradients of parameters without their masks, caught where an optimizer takes them, and what optimizers keep for parameters."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from nncf_ext_tensorflow import keras_private


class DenseGradients:
    """What one model may ask for. masks: (edit key, the edit at work, its parameter). parameters: those of the plan.
    wanted: whether there is an algorithm that may ask; then `TrainingWatch` tells of steps.

    The gradients go into variables, which functions of TensorFlow that were traced long before can write; over replicas they are
    summed, as optimizers do.
    """

    def __init__(self, masks: Sequence[tuple[str, Any, keras.Variable]], parameters: Sequence[keras.Variable], wanted: bool):
        self.wanted = wanted
        self._parameters = {id(parameter) for parameter in parameters}
        self._masks = {id(parameter): (key, mask, parameter) for key, mask, parameter in masks}
        self._stores = {
            key: keras.Variable(
                tf.zeros(parameter.shape), trainable=False, synchronization="on_read", aggregation="sum", name="dense_gradient"
            )
            for key, _, parameter in masks
        }
        self._stepped = keras.Variable(False, dtype="bool", trainable=False, name="stepped")
        self._waiting = False
        self._arrived: Callable[[], None] = lambda: None
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()

    def request(self, arrived: Callable[[], None]) -> None:
        self._waiting, self._arrived = True, arrived
        self._stepped.assign(False)
        for _, mask, _ in self._masks.values():
            mask.set_enabled(False)

    def taken(self) -> Mapping[str, Any] | None:
        if not self._waiting or not bool(self._stepped.numpy()):
            return None
        self._waiting = False
        for _, mask, _ in self._masks.values():
            mask.set_enabled(True)
        return {key: keras.ops.convert_to_tensor(store) for key, store in self._stores.items()}

    def states_of(self, parameter: keras.Variable) -> list[keras.Variable]:
        """The variables of the parameter's shape that optimizers keep for it."""
        return [state for optimizer in self._optimizers for state in keras_private.optimizer_states(optimizer, parameter)]

    def before_step(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The gradients that the optimizer gets."""
        if not any(id(variable) in self._parameters for variable in variables):
            return list(gradients)
        self._optimizers.add(optimizer)
        return [self._seen(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]

    def after_step(self) -> None:
        if self._waiting and tf.executing_eagerly():
            self._arrived()

    def _seen(self, gradient: Any, variable: Any) -> Any:
        if gradient is None or id(variable) not in self._masks:
            return gradient
        key, mask, _ = self._masks[id(variable)]
        dense = tf.convert_to_tensor(gradient)

        def catch() -> Any:
            self._stores[key].assign(dense)
            self._stepped.assign(True)
            return mask.masked(dense)

        if tf.executing_eagerly():
            return gradient if mask.enabled else catch()
        return tf.cond(tf.convert_to_tensor(mask.off), catch, lambda: dense)
