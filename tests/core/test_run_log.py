"""A run's log, what is read back of it, and its pictures."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from nncf_ext import RunLog
from nncf_ext.report import CompressionStatistics, layer_numbers, prepare_for_tensorboard
from nncf_ext.tools.cli import main
from nncf_ext.training.run_log import read_log


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, ...]
    level: float


@dataclass(frozen=True)
class Report:
    sparsity_level: float
    schedule: str
    layers: tuple[Layer, ...]


class Controller:
    """What a log asks of a controller, in epoch `epoch`."""

    def __init__(self, layers=("a", "b")):
        self.scheduler, self.layers = SimpleNamespace(current_epoch=0), layers

    def statistics(self):
        level = self.scheduler.current_epoch / 10
        return CompressionStatistics({"x": Report(level, "fast", tuple(Layer(n, (2,), level) for n in self.layers)), "y": None})

    def loss_values(self):
        return {"x": 2.0 - self.scheduler.current_epoch}


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))


def log_epochs(folder, epochs, layers=("a", "b"), writer=None):
    controller = Controller(layers)
    log = RunLog(folder, controller, writer)
    for epoch in epochs:
        controller.scheduler.current_epoch = epoch
        log.epoch(accuracy=0.5 + epoch / 100)


def test_statistics_as_numbers():
    statistics = Controller().statistics()
    assert prepare_for_tensorboard(statistics) == {"x/sparsity_level": 0.0}
    assert layer_numbers(statistics) == {"x/level": {"a": 0.0, "b": 0.0}}


def test_what_is_logged_is_read_back_and_a_resumed_epoch_replaces_the_first(tmp_path):
    writer = Writer()
    log_epochs(tmp_path / "run", [0, 1, 2], writer=writer)
    log_epochs(tmp_path / "run", [2, 3])
    records = read_log(tmp_path / "run")
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert records[3]["metrics"] == {"accuracy": 0.53} and records[1]["loss_terms"] == {"x": 1.0}
    assert records[2]["layers"] == {"x/level": {"a": 0.2, "b": 0.2}}
    assert ("compression/metrics/accuracy", 0.51, 1) in writer.scalars
    assert ("compression/statistics/x/sparsity_level", 0.2, 2) in writer.scalars


def test_pictures(tmp_path, capsys):
    log_epochs(tmp_path, range(4), [f"layer {i} of a very deep network with long names {'x' * 40}" for i in range(70)])
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "pictures")]) == 0
    files = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert files == ["curves.png", "layers_x_level.png"]
    assert all((tmp_path / "pictures" / name).stat().st_size > 5000 for name in files)
    assert capsys.readouterr().out.split() == [str(tmp_path / "pictures" / name) for name in files]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file: a run writes it with nncf_ext.RunLog"),
        ("", "found a log without an epoch"),
        (json.dumps({"epoch": 0}) + "\nnonsense", "run.jsonl:2: found a line that is no record"),
        ("[]", "run.jsonl:1: found a line that is no record"),
    ],
)
def test_bad_logs(tmp_path, capsys, content, sentence):
    if content is not None:
        (tmp_path / "run.jsonl").write_text(content)
    assert main(["plot", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().err
