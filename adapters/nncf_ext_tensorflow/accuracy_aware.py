"""Training that keeps the accuracy, in one call around `fit`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.controller import Controller
from nncf_ext.training.accuracy_aware import HIGHEST_RATE, AccuracyAwareLoop, TrainingLoopStatistics, settings_of
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.callbacks import StepSchedules


def accuracy_aware_fit(
    model: keras.Model,
    train_dataset: Any,
    compression_ctrl: Controller,
    nncf_config: NNCFConfig,
    uncompressed_model_accuracy: float,
    validation_data: Any = None,
    validate_fn: Callable[[keras.Model], float] | None = None,
    result_dict_to_val_metric_fn: Callable[[Mapping[str, float]], float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    log_dir: str | Path | None = None,
    minimal_compression_rate: float = 0.0,
    maximal_compression_rate: float = HIGHEST_RATE,
    verbose: bool = True,
    **fit_arguments: Any,
) -> TrainingLoopStatistics:
    """Train the compiled, compressed `model` as `accuracy_aware_training` in the config says; it ends with the best weights.

    The accuracy is `validate_fn(model)` or, without it, the entry `accuracy` of `model.evaluate(validation_data)` (or what
    `result_dict_to_val_metric_fn` makes of all its entries). fit_arguments go to `fit`, epoch by epoch, without `epochs`. Where
    the search restarts training, the optimizer's slots become what they were at first and its learning rate is multiplied.
    An interrupted run with the same `log_dir` goes on where it was. ValueError where neither way to validate is given, or the
    model is not compiled.
    """
    settings = settings_of(NNCFConfig.expected(nncf_config))
    if validate_fn is None and validation_data is None:
        raise ValueError("accuracy_aware_fit: found neither validation_data nor validate_fn, expected one of them")
    if not getattr(model, "compiled", False):
        raise ValueError("accuracy_aware_fit: the model is not compiled: call model.compile after create_compressed_model")
    rates = minimal_compression_rate, maximal_compression_rate
    loop = AccuracyAwareLoop(settings, compression_ctrl, uncompressed_model_accuracy, *rates, verbose)

    def evaluated(model: keras.Model) -> float:
        data: Any = validation_data if isinstance(validation_data, tuple) else (validation_data,)
        results: Any = model.evaluate(*data, return_dict=True, verbose=0)  # pyright: ignore[reportArgumentType]
        if result_dict_to_val_metric_fn is not None:
            return result_dict_to_val_metric_fn(results)
        if "accuracy" not in results:
            raise ConfigError(
                f"accuracy_aware_fit: model.evaluate gave {', '.join(results)}, expected an entry 'accuracy': compile with "
                "metrics=['accuracy'] or give result_dict_to_val_metric_fn"
            )
        return results["accuracy"]

    trainer = _Trainer(model, train_dataset, validate_fn or evaluated, [StepSchedulesOfLoop(compression_ctrl), *callbacks])
    trainer.fit_arguments = {"verbose": 0, **fit_arguments}
    with tempfile.TemporaryDirectory() as temporary:
        return loop.run(trainer, log_dir or temporary)


class StepSchedulesOfLoop(StepSchedules):
    """Steps only: the loop begins the epochs."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        pass


class _Trainer:
    """`fit` behind `nncf_ext.training.accuracy_aware.Trainer`."""

    def __init__(self, model: keras.Model, data: Any, validate: Callable[[keras.Model], float], callbacks: list[Any]):
        self._model, self._data, self._validate, self._callbacks = model, data, validate, callbacks
        self.fit_arguments: dict[str, Any] = {}
        optimizer: Any = model.optimizer
        if keras_private.has_learning_rate_schedule(optimizer):
            raise ValueError(
                "accuracy_aware_fit: found an optimizer with a LearningRateSchedule, expected a number: the search changes it"
            )
        self._optimizer = optimizer
        self._learning_rate = float(optimizer.learning_rate)
        optimizer.build(model.trainable_variables)
        self._fresh = [np.array(variable) for variable in optimizer.variables]

    def train_epoch(self, epoch: int) -> None:
        self._model.fit(self._data, initial_epoch=epoch, epochs=epoch + 1, callbacks=[*self._callbacks], **self.fit_arguments)

    def validate(self, epoch: int) -> float:
        return float(self._validate(self._model))

    def best_found(self, epoch: int, accuracy: float, rate: float | None) -> None:
        """Nothing to add: the loop has saved it."""

    def restart(self, lr_factor: float) -> None:
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        self._optimizer.learning_rate = self._learning_rate * lr_factor

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {str(i): np.array(variable) for i, variable in enumerate(self._optimizer.variables)}, {}

    def load_state(self, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        for i, variable in enumerate(self._optimizer.variables):
            variable.assign(tensors[str(i)])
