"""Accuracy-aware training: train within an accuracy budget, and find the highest compression rate that stays in it (NNCF 2.x).

The loops know no framework: an adapter package gives them a `Trainer`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import TypeAdapter
from rich.console import Console

from nncf_ext.algorithm import CompressionStage
from nncf_ext.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nncf_ext.config.accuracy_aware import AccuracyAwareParams, AccuracyAwareTraining
from nncf_ext.controller import Controller
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import refused_as, value_in
from nncf_ext.files.schema import expect
from nncf_ext.files.writing import write_text
from nncf_ext.nncf_config import NNCFConfig
from nncf_ext.training.run_log import RunLog

FOLDER = (
    "accuracy_aware_training"  # below the log folder: best.safetensors, last.safetensors, optimizer.safetensors, progress.json
)
HIGHEST_RATE = 0.95


class Trainer(Protocol):
    """The user's training, one epoch at a time."""

    def train_epoch(self, epoch: int) -> None:
        """Train one epoch; the controller's `epoch_step` has been called."""
        ...

    def validate(self, epoch: int) -> float:
        """The metric to keep, higher is better."""
        ...

    def restart(self, lr_factor: float) -> None:
        """A fresh optimizer, with its learning rate times `lr_factor`."""
        ...

    def best_found(self, epoch: int, accuracy: float, rate: float | None) -> None:
        """The model is the best one so far."""
        ...

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The optimizer's state as arrays and JSON, to go on after an interruption."""
        ...

    def load_state(self, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Search:
    """Where the search for the highest rate is.

    rate: compression rate that is tried; step: size of its next change; sign: direction of the last change, 0 before the first.
    best_budget: largest accuracy above the tolerable minimum seen at this rate, None before any; epochs: trained at it.
    over: nothing is left to try.
    """

    rate: float
    step: float
    best_budget: float | None = None
    sign: int = 0
    lr_factor: float = 1.0
    epochs: int = 0
    over: bool = False

    def is_decided(self, patience: int) -> bool:
        """Whether this rate is known to fit the budget, or had its time."""
        return self.sign == 0 or self.fits or self.epochs >= patience

    @property
    def fits(self) -> bool:
        return self.best_budget is not None and self.best_budget >= 0

    def next(self, params: AccuracyAwareParams, lowest: float, highest: float) -> Search:
        """The next rate: up from one that fits, down from one that does not; half the step (by default) at each turn."""
        sign = 1 if self.fits else -1
        turned = self.sign not in (0, sign)
        step = self.step * params.compression_rate_step_reduction_factor if turned else self.step
        lr_factor = self.lr_factor * params.lr_reduction_factor if turned else self.lr_factor
        rate = min(self.rate + sign * step, highest)
        over = rate < lowest or (sign > 0 and self.rate >= highest)
        return Search(rate, step, None, sign, lr_factor, 0, over)

    def seen(self, budget: float) -> Search:
        """After an epoch at this rate."""
        best = budget if self.best_budget is None else max(self.best_budget, budget)
        return replace(self, best_budget=best, epochs=self.epochs + 1)


@dataclass(frozen=True)
class Progress:
    """What has been reached; kept on disk beside the checkpoints.

    best: the kept checkpoint's (accuracy, compression rate or None), with `fits` whether it is in the budget and compressed.
    """

    epoch: int = 0
    best_accuracy: float | None = None
    best_rate: float | None = None
    best_fits: bool = False
    search: Search | None = None
    finished: bool = False


@dataclass(frozen=True)
class TrainingLoopStatistics:
    """Accuracies in the metric's units; degradations of the returned model; relative in percent."""

    uncompressed_accuracy: float
    compression_rate: float | None
    compressed_accuracy: float
    absolute_accuracy_degradation: float
    relative_accuracy_degradation: float
    accuracy_budget: float


def settings_of(config: NNCFConfig, mode: str | None = None) -> AccuracyAwareTraining:
    """The config's `accuracy_aware_training`. ConfigError where it has none, or another mode than the loop's."""
    settings = config.accuracy_aware_training
    if settings is None:
        raise ConfigError("accuracy_aware_training: missing, expected an object with mode and params")
    if mode is not None and settings.mode != mode:
        raise ConfigError(f"accuracy_aware_training.mode: found {settings.mode!r}, expected {mode!r} for this loop")
    return settings


class AccuracyAwareLoop:
    """Runs either mode. `run` leaves the best model in place and says what it is.

    The best and the last checkpoint are on disk after every epoch, below `log_dir`: a run that was interrupted goes on there.
    """

    def __init__(
        self,
        settings: AccuracyAwareTraining,
        controller: Controller,
        uncompressed_accuracy: float,
        lowest_rate: float = 0.0,
        highest_rate: float = HIGHEST_RATE,
        verbose: bool = True,
    ):
        self._params, self._controller = settings.params, controller
        self._uncompressed, self._lowest, self._highest = uncompressed_accuracy, lowest_rate, highest_rate
        self._progress, self._accuracy = Progress(), 0.0
        self._adaptive = settings.mode == "adaptive_compression_level"
        self._print: Callable[[str], None] = Console(stderr=True).print if verbose else lambda text: None
        if self._adaptive:
            try:
                self._highest = min(highest_rate, controller.maximal_compression_rate)
            except AttributeError as error:
                raise ConfigError(
                    f"accuracy_aware_training.mode: adaptive_compression_level cannot change a rate: {error}"
                ) from None

    @property
    def _settings(self) -> dict[str, Any]:
        """What an interrupted run must have had in common with this one."""
        return {"uncompressed_accuracy": self._uncompressed, **self._params.model_dump()}

    @property
    def progress(self) -> Progress:
        return self._progress

    @property
    def accuracy(self) -> float:
        """What was validated last."""
        return self._accuracy

    @property
    def minimal_tolerable_accuracy(self) -> float:
        absolute, relative = (
            self._params.maximal_absolute_accuracy_degradation,
            self._params.maximal_relative_accuracy_degradation,
        )
        if absolute is not None:
            return self._uncompressed - absolute
        assert relative is not None
        return self._uncompressed * (1 - 0.01 * relative)

    def run(
        self, trainer: Trainer, log_dir: str | Path = ".", stop: Callable[[float], bool] | None = None
    ) -> TrainingLoopStatistics:
        """stop(accuracy): a further reason to end, asked after every epoch."""
        self._trainer, self._stop = trainer, stop or (lambda accuracy: False)
        self._folder = Path(log_dir) / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = RunLog(log_dir, self._controller)
        self._progress = self._resume() or Progress()
        if self._progress.epoch == 0:
            self._record(self._validate())
        self._train_on_schedule(
            self._params.initial_training_phase_epochs if self._adaptive else self._params.maximal_total_epochs
        )
        if self._adaptive:
            self._search()
        self._load_best()
        self._save(replace(self._progress, finished=True))
        return self._statistics()

    def _train_on_schedule(self, epochs: int | None) -> None:
        """Epochs with the config's own schedule, until everything is compressed and in the budget."""
        assert epochs is not None
        while self._progress.search is None and self._progress.epoch < epochs and not self._is_done():
            if self._stop(self._epoch()):
                break

    def _is_done(self) -> bool:
        compressed = self._controller.compression_stage() == CompressionStage.FULLY_COMPRESSED
        return compressed and self._budget(self._accuracy) >= 0

    def _search(self) -> None:
        params = self._params
        if self._progress.search is None:
            rate, best = self._controller.compression_rate, self._progress.best_accuracy
            budget = self._budget(best if best is not None and self._progress.best_rate == rate else self._accuracy)
            self._progress = replace(self._progress, search=Search(rate, params.initial_compression_rate_step, budget))
        while True:
            search = self._progress.search
            assert search is not None
            if (
                search.over
                or search.step < params.minimal_compression_rate_step
                or self._progress.epoch >= params.maximal_total_epochs
            ):
                return
            if search.is_decided(params.patience_epochs or 1):
                search = search.next(params, self._lowest, self._highest)
                self._progress = replace(self._progress, search=search)
                if search.over:
                    return
                self._load_best()
                self._controller.compression_rate = search.rate
                self._trainer.restart(search.lr_factor)
            if self._stop(self._epoch()):
                return

    def _epoch(self) -> float:
        """Train and validate once, keep the better model, save: the accuracy."""
        started = time.monotonic()
        self._controller.scheduler.epoch_step()
        self._trainer.train_epoch(self._progress.epoch)
        self._progress = replace(self._progress, epoch=self._progress.epoch + 1)
        accuracy = self._validate()
        if self._progress.search is not None:
            self._progress = replace(self._progress, search=self._progress.search.seen(self._budget(accuracy)))
        self._record(accuracy)
        rate = self._rate()
        self._log.epoch(accuracy=accuracy, accuracy_budget=self._budget(accuracy), **({} if rate is None else {"rate": rate}))
        self._print(
            f"epoch {self._progress.epoch}: accuracy {accuracy:.4f} ({self._budget(accuracy):+.4f} to the budget), "
            f"{'' if rate is None else f'compression rate {rate:.3f}, '}{time.monotonic() - started:.1f} s"
        )
        return accuracy

    def _validate(self) -> float:
        self._accuracy = float(self._trainer.validate(self._progress.epoch))
        return self._accuracy

    def _budget(self, accuracy: float) -> float:
        return accuracy - self.minimal_tolerable_accuracy

    def _rate(self) -> float | None:
        try:
            return self._controller.compression_rate
        except AttributeError:
            return None

    def _record(self, accuracy: float) -> None:
        """Keep this model as the best one where it is, and save what is needed to go on."""
        rate, progress = self._rate(), self._progress
        compressed = self._controller.compression_stage() == CompressionStage.FULLY_COMPRESSED
        fits = self._budget(accuracy) >= 0 and (self._adaptive or compressed)

        def merit(fits: bool, rate: float | None, accuracy: float) -> tuple[bool, float, float]:
            return fits, (rate or 0.0) if fits and self._adaptive else 0.0, accuracy

        known = progress.best_accuracy
        if known is None or merit(fits, rate, accuracy) > merit(progress.best_fits, progress.best_rate, known):
            self._progress = progress = replace(progress, best_accuracy=accuracy, best_rate=rate, best_fits=fits)
            self._controller.save_checkpoint(self._folder / "best.safetensors")
            self._trainer.best_found(progress.epoch, accuracy, rate)
        self._save(progress)

    def _save(self, progress: Progress) -> None:
        self._progress = progress
        self._controller.save_checkpoint(self._folder / "last.safetensors")
        tensors, settings = self._trainer.state()
        save_checkpoint(self._folder / "optimizer.safetensors", tensors, settings)
        write_text(self._folder / "progress.json", json.dumps({"settings": self._settings, **asdict(progress)}))

    def _resume(self) -> Progress | None:
        """Go on where an interrupted run with the same settings was; None where there is none."""
        path = self._folder / "progress.json"
        try:
            with refused_as(CheckpointError, path):
                saved = expect(TypeAdapter(dict[str, Any]), value_in(path))
                settings = saved.pop("settings", None)
                progress = expect(TypeAdapter(Progress), saved)
            if progress.finished or settings != self._settings:
                return None
            optimizer = load_checkpoint(self._folder / "optimizer.safetensors")
            self._controller.load_checkpoint(self._folder / "last.safetensors")
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            self._print(f"starting anew, over the run in {self._folder}: {error}")
            return None
        if progress.search is not None:
            self._trainer.restart(progress.search.lr_factor)
        self._trainer.load_state(*optimizer)
        self._print(f"going on after epoch {progress.epoch} of the run in {self._folder}")
        self._progress = progress
        self._validate()
        return progress

    def _load_best(self) -> None:
        self._controller.load_checkpoint(self._folder / "best.safetensors")

    def _statistics(self) -> TrainingLoopStatistics:
        accuracy = self._progress.best_accuracy
        assert accuracy is not None
        lost = self._uncompressed - accuracy
        relative = 100 * lost / self._uncompressed if self._uncompressed else 0.0
        return TrainingLoopStatistics(self._uncompressed, self._rate(), accuracy, lost, relative, self._budget(accuracy))
