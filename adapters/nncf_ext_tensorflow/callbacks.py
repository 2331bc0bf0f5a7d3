"""Keras callbacks that step a controller's schedules in `fit` and log its statistics."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import keras

from nncf_ext.controller import Controller
from nncf_ext.report import prepare_for_tensorboard
from nncf_ext.run_log import RunLog
from nncf_ext.soup import WeightAverage


def create_compression_callbacks(
    compression_ctrl: Controller, log_tensorboard: bool = True, log_text: bool = True, log_dir: str | None = None
) -> list[keras.callbacks.Callback]:
    """Callbacks for `model.fit`.

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
    """Tells the controller where training is."""

    def __init__(self, controller: Controller):
        super().__init__()
        self._controller = controller

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._controller.scheduler.epoch_step(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._controller.scheduler.step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._controller.settle()


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
