"""What a run measured, epoch by epoch: one JSON object per line, in a file that `nncf-ext plot` and `compare` read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nncf_ext.controller import Controller
from nncf_ext.report import layer_numbers, plain_numbers

FILE = "run.jsonl"


class RunLog:
    """Appends to `run.jsonl` in `folder`, which is made where it is missing.

    tensorboard_writer: gets the numbers too, if given (`add_scalar(name, value, step)`).
    """

    def __init__(self, folder: str | Path, controller: Controller, tensorboard_writer: Any = None):
        self._path, self._controller, self._writer = Path(folder) / FILE, controller, tensorboard_writer
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def epoch(self, **metrics: float) -> None:
        """Log the end of an epoch: what you measured (`accuracy=0.9, loss=0.1`), the loss terms, and the statistics."""
        epoch, statistics = self._controller.scheduler.current_epoch, self._controller.statistics()
        numbers = plain_numbers(statistics)
        record = {
            "epoch": epoch,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "loss_terms": self._controller.loss_values(),
            "statistics": numbers,
            "layers": layer_numbers(statistics),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer is not None:
            for group in ("metrics", "loss_terms", "statistics"):
                for name, value in record[group].items():
                    self._writer.add_scalar(f"compression/{group}/{name}", value, epoch)


def runs_in(path: Path) -> list[Path]:
    """The folders in `path` that have a log where it has none itself, by name; else `path`."""
    found = [] if (path / FILE).is_file() or not path.is_dir() else sorted(log.parent for log in path.glob(f"*/{FILE}"))
    return found or [path]


def read_log(folder: str | Path) -> list[Mapping[str, Any]]:
    """The records of a run; of an epoch logged twice (a resumed run) the later one. FileNotFoundError where it has no log."""
    path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: a run writes it with nncf_ext.RunLog, or the Keras callbacks' log_dir")
    records = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            records[record["epoch"]] = record
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}:{number}: found a line that is no record of an epoch") from None
    return [records[epoch] for epoch in sorted(records)]
