"""What a run measured, epoch by epoch: one JSON object per line, in a file that `nncf-ext plot` and `compare` read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from nncf_ext.controller import Controller
from nncf_ext.files.json_text import content_of, refused_as, value_of
from nncf_ext.files.schema import expect
from nncf_ext.report import layer_numbers, plain_numbers

FILE = "run.jsonl"
_MOST_BYTES = 256 << 20


class _Record(BaseModel):
    epoch: Annotated[int, Field(strict=True, ge=-1)]
    metrics: dict[str, float] = {}
    loss_terms: dict[str, float] = {}
    statistics: dict[str, float] = {}
    layers: dict[str, dict[str, float]] = {}


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
        line = json.dumps(record).encode() + b"\n"
        with self._path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and (file.seek(size - 1), file.read(1))[1] != b"\n":  # half a line, of a writer that was killed
                file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
            file.write(line)
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
    with refused_as(ValueError, path):
        lines = content_of(path, _MOST_BYTES).split(b"\n")
    if lines[-1].startswith(b"{") and len(lines) > 1:
        del lines[-1]  # of a writer that was killed: whole ones end
    for number, line in enumerate(lines, 1):
        if line.strip():
            with refused_as(ValueError, f"{path}:{number}: found a line that is no record of an epoch"):
                record = value_of(line, finite=False)  # a loss may have become NaN
                records[expect(_Record, record).epoch] = record
    return [records[epoch] for epoch in sorted(records)]
