"""Tells `nncf_ext.step_watch` of the optimizer steps of a model; in compiled functions, of their tracing.
Copies of the model tell nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from nncf_ext.step_watch import StepWatch
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.optimizer_steps import ignore, listen


class TrainingWatch:
    def __init__(self, model: keras.Model, watch: StepWatch):
        self._variables = {id(variable) for variable in model.variables}
        self._watch = watch
        if watch.has_to_see_steps:
            listen(self)

    def __call__(self) -> None:
        """End it."""
        ignore(self)

    def before_step(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """RuntimeError where the model is trained without the algorithms' losses."""
        if any(id(variable) in self._variables for variable in variables):
            self._tell_of_step(optimizer)
            problem = self._watch.dropped_loss()
            if problem is not None:
                raise RuntimeError(
                    f"{problem}; a train_step of your own may add sum(self.losses), or call self.compute_loss of the compressed "
                    "model, and a model around it has them in its losses"
                )
        return list(gradients)

    def _tell_of_step(self, optimizer: Any) -> None:
        if not tf.executing_eagerly():
            self._watch.step_begins()
        elif not keras_private.steps_of(optimizer)[1]:  # the first of the batches whose gradients it accumulates
            self._watch.step_begins(optimizer, several=True)  # `steps_per_execution`

    def after_step(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Nothing."""
