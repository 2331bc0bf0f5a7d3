"""NNCF 2.x's training loops that keep the accuracy, for PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nncf_ext import NNCFConfig
from nncf_ext.controller import Controller
from nncf_ext.training.accuracy_aware import HIGHEST_RATE, AccuracyAwareLoop, TrainingLoopStatistics, settings_of
from nncf_ext_torch.optimizer_state import load_optimizer_state, optimizer_state


class _Trainer:
    """The user's callables behind `nncf_ext.training.accuracy_aware.Trainer`."""

    def __init__(
        self,
        controller: Controller,
        model: torch.nn.Module,
        train_epoch: Callable[..., Any],
        validate: Callable[..., float],
        configure_optimizers: Callable[[], tuple[Any, Any]] | None,
    ):
        self._controller, self._model = controller, model
        self._train_epoch, self._validate, self._configure_optimizers = train_epoch, validate, configure_optimizers
        self.update_learning_rate: Callable[..., Any] | None = None
        self.tensorboard_writer: Any = None
        self.dump: Callable[[], Any] | None = None
        self.dumped: Any = None
        self.loss: Any = None
        self._trained = False
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.restart(1.0)

    def train_epoch(self, epoch: int) -> None:
        self.loss = self._train_epoch(
            self._controller, self._model, epoch=epoch, optimizer=self.optimizer, lr_scheduler=self.lr_scheduler
        )
        self._trained = True

    def validate(self, epoch: int) -> float:
        with torch.no_grad():
            accuracy = float(self._validate(self._model, epoch=epoch))
        if self._trained and self.update_learning_rate is not None:
            self.update_learning_rate(self.lr_scheduler, epoch, accuracy, self.loss)
        if self.tensorboard_writer is not None:
            self.tensorboard_writer.add_scalar("compression/accuracy_aware/accuracy", accuracy, epoch)
        return accuracy

    def best_found(self, epoch: int, accuracy: float, rate: float | None) -> None:
        if self.dump is not None:
            self.dumped = self.dump()
        if self.tensorboard_writer is not None and rate is not None:
            self.tensorboard_writer.add_scalar("compression/accuracy_aware/best_compression_rate", rate, epoch)

    def restart(self, lr_factor: float) -> None:
        if self._configure_optimizers is None:
            return
        self.optimizer, self.lr_scheduler = self._configure_optimizers()
        for group in self.optimizer.param_groups:
            group["lr"] *= lr_factor
            if "initial_lr" in group:
                group["initial_lr"] *= lr_factor
        if hasattr(self.lr_scheduler, "base_lrs"):
            self.lr_scheduler.base_lrs = [rate * lr_factor for rate in self.lr_scheduler.base_lrs]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return optimizer_state(self.optimizer, self.lr_scheduler)

    def load_state(self, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        load_optimizer_state(self.optimizer, self.lr_scheduler, tensors, settings)


def _step_schedule(lr_scheduler: Any, epoch: int, accuracy: float, loss: Any) -> None:
    if isinstance(lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        lr_scheduler.step(accuracy)
    elif lr_scheduler is not None:
        lr_scheduler.step()


class _TrainingLoop:
    mode: str

    def __init__(
        self,
        nncf_config: NNCFConfig,
        compression_controller: Controller,
        uncompressed_model_accuracy: float,
        lr_updates_needed: bool = True,
        verbose: bool = True,
        dump_checkpoints: bool = True,
        minimal_compression_rate: float = 0.0,
        maximal_compression_rate: float = HIGHEST_RATE,
    ):
        settings = settings_of(NNCFConfig.expected(nncf_config), self.mode)
        self._controller = compression_controller
        self._lr_updates_needed, self._dump_checkpoints = lr_updates_needed, dump_checkpoints
        rates = minimal_compression_rate, maximal_compression_rate
        self._loop = AccuracyAwareLoop(settings, compression_controller, uncompressed_model_accuracy, *rates, verbose)
        self.uncompressed_model_accuracy = uncompressed_model_accuracy
        self.verbose = verbose
        self.statistics: TrainingLoopStatistics | None = None
        self._trainer: _Trainer | None = None

    # What scripts of NNCF 2.x read of the runner in dump_checkpoint_fn

    @property
    def cumulative_epoch_count(self) -> int:
        """Epochs trained."""
        return self._loop.progress.epoch

    @property
    def training_epoch_count(self) -> int:
        """Epochs trained since training was started, or started anew by the search."""
        search = self._loop.progress.search
        return self._loop.progress.epoch if search is None else search.epochs

    @property
    def best_val_metric_value(self) -> float:
        best = self._loop.progress.best_accuracy
        return 0.0 if best is None else best

    @property
    def current_val_metric_value(self) -> float:
        return self._loop.accuracy

    @property
    def minimal_tolerable_accuracy(self) -> float:
        return self._loop.minimal_tolerable_accuracy

    @property
    def accuracy_budget(self) -> float:
        """Of the best model."""
        return self.best_val_metric_value - self.minimal_tolerable_accuracy

    @property
    def compression_rate_target(self) -> float:
        """The rate that the search tries, else the controller's."""
        search = self._loop.progress.search
        return self._controller.compression_rate if search is None else search.rate

    @property
    def optimizer(self) -> Any:
        return None if self._trainer is None else self._trainer.optimizer

    @property
    def lr_scheduler(self) -> Any:
        return None if self._trainer is None else self._trainer.lr_scheduler

    @property
    def current_loss(self) -> Any:
        """What train_epoch_fn returned last."""
        return None if self._trainer is None else self._trainer.loss

    def run(
        self,
        model: torch.nn.Module,
        train_epoch_fn: Callable[..., Any],
        validate_fn: Callable[..., float],
        configure_optimizers_fn: Callable[[], tuple[Any, Any]] | None = None,
        dump_checkpoint_fn: Callable[..., Any] | None = None,
        load_checkpoint_fn: Callable[..., Any] | None = None,
        early_stopping_fn: Callable[[float], bool] | None = None,
        tensorboard_writer: Any = None,
        log_dir: str | Path | None = None,
        update_learning_rate_fn: Callable[..., Any] | None = None,
    ) -> torch.nn.Module:
        """Train, and return the model with the best weights found; `statistics` then says how good they are.

        train_epoch_fn(controller, model, epoch=, optimizer=, lr_scheduler=): trains one epoch; the schedules' `epoch_step` was
        called, `scheduler.step()` is to be called before each optimizer step. validate_fn(model, epoch=): the accuracy.
        configure_optimizers_fn(): (optimizer, lr_scheduler or None), called again where the search restarts training.
        dump_checkpoint_fn(model, controller, loop, folder), load_checkpoint_fn(model, what it returned): the user's own
        checkpoints of the best model, besides those of the loop. tensorboard_writer: gets the accuracy of every epoch.
        update_learning_rate_fn(lr_scheduler, epoch, accuracy, loss): instead of `lr_scheduler.step()`.
        An interrupted run with the same `log_dir` goes on where it was.
        """
        update = update_learning_rate_fn or _step_schedule
        self._trainer = trainer = _Trainer(self._controller, model, train_epoch_fn, validate_fn, configure_optimizers_fn)
        trainer.update_learning_rate = update if self._lr_updates_needed else None
        trainer.tensorboard_writer = tensorboard_writer
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(log_dir or ".") if self._dump_checkpoints else Path(temporary)
            if dump_checkpoint_fn is not None:
                trainer.dump = lambda: dump_checkpoint_fn(model, self._controller, self, str(folder))
            self.statistics = self._loop.run(trainer, folder, early_stopping_fn)
        if load_checkpoint_fn is not None and trainer.dumped is not None:
            load_checkpoint_fn(model, trainer.dumped)
        return model


class EarlyExitCompressionTrainingLoop(_TrainingLoop):
    """Trains until everything is compressed and the accuracy is within the budget."""

    mode = "early_exit"


class AdaptiveCompressionTrainingLoop(_TrainingLoop):
    """Searches for the highest compression rate at which the accuracy is within the budget."""

    mode = "adaptive_compression_level"


def create_accuracy_aware_training_loop(
    nncf_config: NNCFConfig, compression_ctrl: Controller, uncompressed_model_accuracy: float, **additional_runner_args: Any
) -> _TrainingLoop:
    """The loop for the config's `accuracy_aware_training.mode`. ConfigError where it has none."""
    settings = settings_of(NNCFConfig.expected(nncf_config))
    loops = {loop.mode: loop for loop in (EarlyExitCompressionTrainingLoop, AdaptiveCompressionTrainingLoop)}
    return loops[settings.mode](nncf_config, compression_ctrl, uncompressed_model_accuracy, **additional_runner_args)
