"""Accuracy-aware training of a small network on real digits, in the user's own loop."""

import pytest
import torch
from nncf_ext_torch import (
    AdaptiveCompressionTrainingLoop,
    EarlyExitCompressionTrainingLoop,
    create_accuracy_aware_training_loop,
    create_compressed_model,
)

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import demo

SPARSITY = {
    "algorithm": "magnitude_sparsity",
    "params": {"sparsity_target": 0.5, "sparsity_target_epoch": 1, "sparsity_freeze_epoch": 9},
}
ADAPTIVE = {
    "mode": "adaptive_compression_level",
    "params": {
        "initial_training_phase_epochs": 2,
        "patience_epochs": 2,
        "maximal_absolute_accuracy_degradation": 0.05,
        "initial_compression_rate_step": 0.2,
        "minimal_compression_rate_step": 0.1,
    },
}


def config(accuracy_aware, compression=SPARSITY):
    return NNCFConfig.from_dict(
        {
            "input_info": {"sample_size": [1, 64]},
            "compression": compression,
            "accuracy_aware_training": accuracy_aware,
        }
    )


class Training:
    """A user's script: data, model, loop."""

    def __init__(self, accuracy_aware, compression=SPARSITY):
        data = demo.load_digits()
        self.x, self.y = torch.from_numpy(data.train_images).flatten(1), torch.from_numpy(data.train_labels)
        self.test_x, self.test_y = torch.from_numpy(data.test_images).flatten(1), torch.from_numpy(data.test_labels)
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10))
        self.fit(self.model, torch.optim.Adam(self.model.parameters(), 1e-2), 6)
        self.accuracy = self.validate(self.model)
        self.config = config(accuracy_aware, compression)
        self.ctrl, _ = create_compressed_model(self.model, self.config)
        self.epochs, self.dies_in = [], None

    def fit(self, model, optimizer, epochs, step=lambda: None):
        for _ in range(epochs):
            for x, y in zip(self.x.split(64), self.y.split(64), strict=True):
                step()
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()

    def validate(self, model, epoch=None):
        return (model(self.test_x).argmax(1) == self.test_y).float().mean().item()

    def train_epoch(self, ctrl, model, epoch, optimizer, lr_scheduler):
        if epoch == self.dies_in:
            raise KeyboardInterrupt
        self.epochs.append(epoch)
        self.fit(model, optimizer, 1, ctrl.scheduler.step)

    def optimizers(self):
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3)

    def run(self, folder, loop_class=None, **arguments):
        make = loop_class or create_accuracy_aware_training_loop
        loop = make(self.config, self.ctrl, self.accuracy, verbose=False)
        model = loop.run(self.model, self.train_epoch, self.validate, self.optimizers, log_dir=folder, **arguments)
        assert model is self.model
        return loop.statistics


def test_adaptive_returns_the_sparsest_model_within_the_budget(tmp_path):
    training = Training(ADAPTIVE)
    dumps, loaded = [], []

    def dump(model, ctrl, loop, folder):
        dumps.append(ctrl.compression_rate)
        return len(dumps)

    statistics = training.run(tmp_path, dump_checkpoint_fn=dump, load_checkpoint_fn=lambda model, path: loaded.append(path))
    assert statistics.compression_rate >= 0.7 and statistics.accuracy_budget >= 0
    assert training.validate(training.model) == statistics.compressed_accuracy
    zeros = [(layer.weight == 0).float().mean().item() for layer in training.ctrl.strip() if hasattr(layer, "weight")]
    assert max(zeros) > 0.6
    assert loaded == [len(dumps)] and dumps[-1] == pytest.approx(statistics.compression_rate)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole = Training(ADAPTIVE)
    expected = whole.run(tmp_path / "whole")
    killed = Training(ADAPTIVE)
    killed.dies_in = 3
    with pytest.raises(KeyboardInterrupt):
        killed.run(tmp_path / "killed")
    resumed = Training(ADAPTIVE)
    assert resumed.run(tmp_path / "killed") == expected
    assert resumed.epochs == whole.epochs[3:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_early_exit_stops_when_everything_is_compressed_and_accurate(tmp_path):
    early_exit = {"mode": "early_exit", "params": {"maximal_total_epochs": 9, "maximal_relative_accuracy_degradation": 5}}
    training = Training(early_exit)
    statistics = training.run(tmp_path, EarlyExitCompressionTrainingLoop)
    assert 1 < len(training.epochs) < 9 and statistics.compression_rate == pytest.approx(0.5, abs=0.001)
    names = sorted(path.name for path in (tmp_path / "accuracy_aware_training").iterdir())
    assert names == ["best.safetensors", "last.safetensors", "optimizer.safetensors", "progress.json"]


def test_adaptive_needs_an_algorithm_with_a_rate():
    training = Training(ADAPTIVE, {"algorithm": "quantization"})
    with pytest.raises(ConfigError, match="adaptive_compression_level cannot change a rate: .*no algorithm"):
        AdaptiveCompressionTrainingLoop(training.config, training.ctrl, training.accuracy)
