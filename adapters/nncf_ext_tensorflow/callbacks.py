"""Keras callbacks that step a controller's schedules in `fit` and log its statistics."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import keras

from nncf_ext.controller import Controller
from nncf_ext.report import prepare_for_tensorboard
from nncf_ext.schedules import Clock
from nncf_ext.soup import WeightAverage
from nncf_ext.training.best_model import Waiting, hold
from nncf_ext.training.run_log import RunLog
from nncf_ext_tensorflow import keras_private

_LOGGER = logging.getLogger("nncf_ext")


def create_compression_callbacks(
    compression_ctrl: Controller, log_tensorboard: bool = True, log_text: bool = True, log_dir: str | None = None
) -> list[keras.callbacks.Callback]:
    """Callbacks for `model.fit`. They step the schedules; EarlyStopping and ModelCheckpoint(save_best_only) judge no model
    before all of it is compressed.

    log_dir: after each epoch, what `fit` measured and the numbers of `statistics()` go to `run.jsonl` there (for
    `nncf-ext plot`) and, with log_tensorboard, to TensorBoard. log_text: print the statistics.
    Raises ValueError where TensorBoard is wanted and not installed.
    """
    if log_tensorboard and log_dir and find_spec("tensorboard") is None:
        raise ValueError("log_dir: TensorBoard is not installed: pip install tensorboard, or log_tensorboard=False")
    callbacks: list[keras.callbacks.Callback] = [StepSchedules(compression_ctrl)]
    if log_text or (log_tensorboard and log_dir):
        callbacks.append(LogStatistics(compression_ctrl, log_text, log_dir if log_tensorboard else None))
    if log_dir:
        callbacks.append(LogRun(RunLog(log_dir, compression_ctrl)))
    return callbacks


class StepSchedules(keras.callbacks.Callback):
    """Tells the controller where training is.

    Steps are those that the optimizer executed (`steps_per_execution`, gradient accumulation); where the model's own optimizer
    does not step, each batch is one. Epochs go on where the controller is, in a second `fit` too; an epoch that was interrupted
    is begun again. Callbacks that look for the best model wait (see `only_when_compressed`).
    """

    def __init__(self, controller: Controller):
        super().__init__()
        self._controller = controller
        self._epochs_before: int | None = None  # what is added to the epochs of this `fit`
        self._whole_epoch: int | None = None  # the last one that ended, of the controller's
        self._first_batch, self._steps_before, self._step_begun = 0, 0, False
        self._told = False
        self._waiting: Waiting | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._epochs_before, self._step_begun = None, False
        judges = [callback for callback in keras_private.callbacks_beside(self) if looks_for_the_best(callback)]
        self._waiting = Waiting(self._controller, judges, _JUDGING)

    def on_train_end(self, logs: Any = None) -> None:
        if self._waiting is not None:
            self._waiting.end()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        clock = self._controller.clock
        if self._epochs_before is None:
            whole = self._is_whole(clock)
            if not whole:  # interrupted: its length is unknown
                self._controller.clock = replace(clock, step_in_epoch=-1)
            self._epochs_before = max(clock.epoch + int(whole) - epoch, 0)
        self._controller.scheduler.epoch_step(epoch + self._epochs_before)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._whole_epoch = self._controller.clock.epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._first_batch, (self._steps_before, _) = batch, self._optimizer_steps()
        self._begin_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps, begun = self._optimizer_steps()
        ended = steps - self._steps_before
        if not ended and not begun and not self._accumulates():
            ended = batch - self._first_batch + 1
        if ended > 1 and not self._told:
            self._told = True
            _LOGGER.warning("steps_per_execution: schedules move between executions only, here of %d optimizer steps", ended)
        for _ in range(ended):
            self._begin_step()
            self._step_begun = False
        if ended:
            self._controller.after_optimizer_step()
        if begun:
            self._begin_step()

    def _begin_step(self) -> None:
        if not self._step_begun:
            self._controller.scheduler.step()
            self._step_begun = True

    def _optimizer_steps(self) -> tuple[int, bool]:
        """Steps that the model's optimizer has made, and whether gradients are being accumulated for the next."""
        optimizer = getattr(self.model, "optimizer", None)
        return (0, False) if optimizer is None else keras_private.steps_of(optimizer)

    def _accumulates(self) -> bool:
        return bool(getattr(getattr(self.model, "optimizer", None), "gradient_accumulation_steps", None))

    def _is_whole(self, clock: Clock) -> bool:
        """Whether the controller's epoch has ended: in a `fit` before, or before the state was saved that was loaded."""
        if self._whole_epoch == clock.epoch or clock.epoch < 0:
            return True
        optimizer = getattr(self.model, "optimizer", None)
        batches = (self.params or {}).get("steps")
        expected = batches // (getattr(optimizer, "gradient_accumulation_steps", None) or 1) if batches else clock.steps_per_epoch
        return expected is not None and clock.step_in_epoch + 1 >= expected


def looks_for_the_best(callback: keras.callbacks.Callback) -> bool:
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        return callback.save_best_only
    return isinstance(callback, keras.callbacks.EarlyStopping)


_JUDGING = ("on_epoch_end", "on_train_batch_end")


def only_when_compressed(controller: Controller, callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    """`callback`, which from now on sees the ends of epochs and batches only while all of the model is compressed (see
    `nncf_ext.training.best_model`). `create_compression_callbacks` does so to each EarlyStopping, and ModelCheckpoint with
    save_best_only, in the same `fit`."""
    hold(controller, callback, _JUDGING)
    return callback


class AverageWeights(keras.callbacks.Callback):
    """Tells a running average (`controller.weight_average`) of every epoch, or with per_batch of every optimizer step."""

    def __init__(self, average: WeightAverage, per_batch: bool = False):
        super().__init__()
        self._average, self._per_batch = average, per_batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._per_batch:
            self._average.update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self._per_batch:
            self._average.update()


class LogRun(keras.callbacks.Callback):
    """Writes the run's log."""

    def __init__(self, log: RunLog):
        super().__init__()
        self._log = log

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._log.epoch(**{name: float(value) for name, value in (logs or {}).items()})


class LogStatistics(keras.callbacks.Callback):
    """Logs the controller's statistics at the end of each epoch."""

    def __init__(self, controller: Controller, text: bool, log_dir: str | None):
        super().__init__()
        self._controller, self._text, self._log_dir = controller, text, log_dir
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        statistics = self._controller.statistics()
        if self._text:
            print(statistics)
        if self._log_dir is None:
            return
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._log_dir)
        with self._writer.as_default(step=epoch):
            for name, value in prepare_for_tensorboard(statistics).items():
                tf.summary.scalar(f"compression/statistics/{name}", value)

    def on_train_end(self, logs: Any = None) -> None:
        if self._writer is not None:
            self._writer.close()
