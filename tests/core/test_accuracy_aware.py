"""Accuracy-aware training: the search for the rate, the loops, going on after an interruption."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.algorithm import CompressionStage
from nncf_ext.checkpoint import load_checkpoint, save_checkpoint
from nncf_ext.config.accuracy_aware import AccuracyAwareParams
from nncf_ext.report import CompressionStatistics
from nncf_ext.training.accuracy_aware import AccuracyAwareLoop, Search, settings_of

ABSOLUTE = {"maximal_absolute_accuracy_degradation": 0.01}


def early_exit(epochs=5, **params):
    params = {"maximal_total_epochs": epochs, **(params or ABSOLUTE)}
    return NNCFConfig.from_dict({"accuracy_aware_training": {"mode": "early_exit", "params": params}})


def adaptive(**params):
    params = {"initial_training_phase_epochs": 2, "patience_epochs": 3, **ABSOLUTE, **params}
    return NNCFConfig.from_dict({"accuracy_aware_training": {"mode": "adaptive_compression_level", "params": params}})


class FakeController:
    """A model that is accurate up to a rate: `accuracy` 1.0 there, 0.5 above it, and 0.25 until `slow` epochs at a rate."""

    def __init__(self, threshold, rate=0.0, schedule=(), maximal=1.0):
        self.rate, self.threshold, self.schedule, self.maximal_compression_rate = rate, threshold, schedule, maximal
        self.tried, self.epoch = [], 0
        self.scheduler = SimpleNamespace(epoch_step=self._epoch_step, current_epoch=0)
        self.statistics, self.loss_values = lambda: CompressionStatistics({}), dict

    def _epoch_step(self):
        if self.epoch < len(self.schedule):
            self.rate = self.schedule[self.epoch]
        self.epoch += 1

    @property
    def compression_rate(self):
        return self.rate

    @compression_rate.setter
    def compression_rate(self, rate):
        self.rate = rate
        self.schedule = ()
        self.tried.append(round(rate, 6))

    def compression_stage(self):
        done = not self.schedule or self.rate >= self.schedule[-1]
        return CompressionStage.FULLY_COMPRESSED if done else CompressionStage.PARTIALLY_COMPRESSED

    def save_checkpoint(self, path):
        save_checkpoint(path, {"rate": np.array(self.rate)}, {"epoch": self.epoch})

    def load_checkpoint(self, path):
        tensors, state = load_checkpoint(path)
        self.rate, self.epoch = float(tensors["rate"]), state["epoch"]


class FakeTrainer:
    def __init__(self, controller, dies_in=None):
        self.controller, self.epochs, self.lr_factors, self.dies_in = controller, [], [], dies_in
        self.memory = 0.0

    def train_epoch(self, epoch):
        if epoch == self.dies_in:
            raise KeyboardInterrupt
        self.epochs.append(epoch)
        self.memory += 1

    def validate(self, epoch):
        return 1.0 if self.controller.rate <= self.controller.threshold else 0.5

    def restart(self, lr_factor):
        self.lr_factors.append(lr_factor)

    def best_found(self, epoch, accuracy, rate):
        pass

    def state(self):
        return {"memory": np.array(self.memory)}, {}

    def load_state(self, tensors, settings):
        self.memory = float(tensors["memory"])


def run(config, controller, folder, trainer=None, accuracy=1.0):
    trainer = trainer or FakeTrainer(controller)
    loop = AccuracyAwareLoop(settings_of(config), controller, accuracy, verbose=False)
    return loop.run(trainer, folder), trainer


def test_the_search_goes_up_from_rates_that_fit_and_turns_with_half_the_step():
    """Accurate up to 0.62, from 0.5 in steps of 0.1: worked by hand."""
    params = AccuracyAwareParams(**ABSOLUTE)
    search, tried = Search(rate=0.5, step=0.1, best_budget=0.0), []
    while search.step >= params.minimal_compression_rate_step:
        search = search.next(params, 0.0, 0.95)
        tried.append((round(search.rate, 6), round(search.step, 6), search.lr_factor))
        search = search.seen(0.01 if search.rate <= 0.62 else -0.01)
    assert tried == [
        (0.6, 0.1, 1),
        (0.7, 0.1, 1),
        (0.65, 0.05, 0.5),
        (0.6, 0.05, 0.5),
        (0.625, 0.025, 0.25),
        (0.6125, 0.0125, 0.125),
    ]


@given(st.floats(0.05, 0.9), st.floats(0.1, 0.9), st.floats(0.025, 0.3))
def test_the_search_ends_close_below_the_highest_rate_that_fits(threshold, start, step):
    params = AccuracyAwareParams(**ABSOLUTE, initial_compression_rate_step=step)
    search = Search(rate=start, step=step, best_budget=0.0 if start <= threshold else -1.0)
    best = start if start <= threshold else 0.0
    for _ in range(200):
        if search.over or search.step < params.minimal_compression_rate_step:
            break
        search = search.next(params, 0.0, 0.95)
        if not search.over and search.rate <= threshold:
            best = max(best, search.rate)
        search = search.seen(0.0 if search.rate <= threshold else -1.0)
    else:
        pytest.fail("no end")
    assert best >= min(threshold, 0.95) - max(2 * step, 0.05) - 1e-9


def test_adaptive_keeps_the_highest_rate_in_the_budget(tmp_path):
    controller = FakeController(0.62, schedule=(0.25, 0.5))
    statistics, trainer = run(adaptive(), controller, tmp_path)
    assert controller.tried == [0.6, 0.7, 0.65, 0.6, 0.625, 0.6125]
    assert statistics.compression_rate == pytest.approx(0.6125) == controller.rate
    assert statistics.accuracy_budget == pytest.approx(0.01)
    assert trainer.lr_factors == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert len(trainer.epochs) == 2 + 1 + 3 + 3 + 1 + 3 + 1  # the schedule; rates that do not fit get the patience of 3


def test_adaptive_stops_at_the_highest_rate_that_the_model_allows(tmp_path):
    controller = FakeController(1.0, schedule=(0.5,), maximal=0.7)
    statistics, _ = run(adaptive(initial_training_phase_epochs=1), controller, tmp_path)
    assert statistics.compression_rate == pytest.approx(0.7) and max(controller.tried) == pytest.approx(0.7)


def test_adaptive_gives_up_where_nothing_fits(tmp_path):
    controller = FakeController(-1.0, schedule=(0.15,))
    statistics, _ = run(adaptive(initial_training_phase_epochs=1), controller, tmp_path)
    assert controller.tried == [0.05] and statistics.accuracy_budget < 0


def test_early_exit_trains_until_all_is_compressed_and_accurate(tmp_path):
    controller = FakeController(0.9, schedule=(0.2, 0.4, 0.6, 0.6))
    statistics, trainer = run(early_exit(), controller, tmp_path)
    assert trainer.epochs == [0, 1, 2] and statistics.compression_rate == pytest.approx(0.6)
    assert statistics.absolute_accuracy_degradation == 0


def test_early_exit_returns_the_best_model_where_none_fits(tmp_path):
    controller = FakeController(0.3, schedule=(0.2, 0.4, 0.6, 0.6, 0.6))
    statistics, trainer = run(early_exit(4), controller, tmp_path)
    assert trainer.epochs == [0, 1, 2, 3]
    assert statistics.compressed_accuracy == 1.0 and statistics.compression_rate == 0  # accurate, but not compressed
    assert statistics.relative_accuracy_degradation == 0


def test_relative_budget_is_in_percent():
    loop = AccuracyAwareLoop(settings_of(early_exit(maximal_relative_accuracy_degradation=2)), FakeController(1), 0.5)
    assert loop.minimal_tolerable_accuracy == pytest.approx(0.49)


@pytest.mark.parametrize("epoch", range(12))
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, epoch):
    whole = FakeController(0.62, schedule=(0.25, 0.5))
    expected, _ = run(adaptive(), whole, tmp_path / "whole")
    first = FakeController(0.62, schedule=(0.25, 0.5))
    with pytest.raises(KeyboardInterrupt):
        run(adaptive(), first, tmp_path / "cut", FakeTrainer(first, dies_in=epoch))
    second = FakeController(0.62, schedule=(0.25, 0.5))
    statistics, trainer = run(adaptive(), second, tmp_path / "cut")
    assert statistics == expected and trainer.epochs[0] == epoch
    assert trainer.memory == 14


def test_a_finished_run_or_one_with_another_budget_is_not_gone_on_with(tmp_path):
    controller = FakeController(0.9, schedule=(0.2, 0.4))
    run(early_exit(), controller, tmp_path)
    again = FakeController(0.9, schedule=(0.2, 0.4))
    _, trainer = run(early_exit(), again, tmp_path)
    assert trainer.epochs == [0, 1]


BAD = [
    ({}, "accuracy_aware_training: the key 'mode' is missing"),
    ({"mode": "early", "params": ABSOLUTE}, 'accuracy_aware_training.mode: found "early"'),
    ({"mode": "early_exit", "params": ABSOLUTE}, "accuracy_aware_training.params: the key 'maximal_total_epochs' is missing"),
    ({"mode": "early_exit", "params": {"maximal_total_epochs": 1}}, "found neither of maximal_relative"),
    (
        {"mode": "early_exit", "params": {"maximal_total_epochs": 1, "maximal_relative_accuracy_degradation": 1, **ABSOLUTE}},
        "accuracy_aware_training.params: found both maximal_relative_accuracy_degradation and",
    ),
    (
        {"mode": "early_exit", "params": {"maximal_total_epochs": 1, "patience_epochs": 3, **ABSOLUTE}},
        "accuracy_aware_training.params.patience_epochs: found with mode early_exit",
    ),
    (
        {"mode": "adaptive_compression_level", "params": {"patience_epochs": 3, **ABSOLUTE}},
        "accuracy_aware_training.params: the key 'initial_training_phase_epochs' is missing",
    ),
    (
        {"mode": "adaptive_compression_level", "params": {"patience": 3, **ABSOLUTE}},
        "accuracy_aware_training.params.patience: unknown key, did you mean 'patience_epochs'?",
    ),
]


@pytest.mark.parametrize(("section", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_mistakes(section, sentence):
    with pytest.raises(ConfigError) as caught:
        NNCFConfig.from_dict({"accuracy_aware_training": section})
    assert sentence in str(caught.value)


def test_a_config_without_it_or_with_the_other_mode():
    with pytest.raises(ConfigError, match="accuracy_aware_training: missing"):
        settings_of(NNCFConfig())
    with pytest.raises(ConfigError, match="mode: found 'early_exit', expected 'adaptive"):
        settings_of(early_exit(), "adaptive_compression_level")
