"""Runs beside each other: accuracy against the size of the files and their latency, and which run no other beats in both."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext.errors import nearest
from nncf_ext.text_table import TextTable
from nncf_ext.training.run_log import FILE, read_log, runs_in

_MODELS = (".onnx", ".keras", ".safetensors")  # in this order, where a run has files of several kinds
_ACCURACIES = ("val_accuracy", "accuracy")
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


@dataclass(frozen=True)
class ComparedRun:
    """accuracy: of the last epoch logged. size, zipped: bytes of the file, as it is and after zlib. ratio: bytes of the original
    over `size`. milliseconds: of one sample on one thread. score: where one was asked for. best: no run is as accurate or more,
    and as small (as fast) or more, and better in one of them."""

    name: str
    file: Path
    accuracy: float
    size: int
    zipped: int
    ratio: float
    milliseconds: float | None = None
    score: float | None = None
    best: bool = False


def compare_runs(
    runs: Sequence[Path],
    original: Path | None = None,
    metric: str | None = None,
    latency: bool = False,
    weights: tuple[float, float] | None = None,
) -> list[ComparedRun]:
    """Compare runs, each a folder with a `run.jsonl` and a model file, or that file; a folder of runs stands for all of them.

    original: the file that ratios are of, by default that of the first run. metric: name of the accuracy in the logs. latency:
    measure the files (ONNX) in ONNX Runtime, in turns. weights: (alpha, beta) of the score alpha * accuracy + beta * ratio.
    ValueError, with the run, where one has no such metric or file.
    """
    given = [part for run in runs for part in runs_in(run)]
    runs = [run.parent if run.is_file() else run for run in given]
    logged = [(run, _model_file(path), _accuracy(run, metric)) for run, path in zip(runs, given, strict=True)]
    first = original if original is not None else logged[0][1]
    if not first.is_file():
        raise ValueError(f"{first}: no such file, expected the original model")
    whole = first.stat().st_size
    times = _latencies([file for _, file, _ in logged]) if latency else [None] * len(logged)
    found = []
    for (run, file, accuracy), milliseconds in zip(logged, times, strict=True):
        content = file.read_bytes()
        ratio = whole / len(content)
        score = None if weights is None else weights[0] * accuracy + weights[1] * ratio
        zipped = len(zlib.compress(content))
        found.append(ComparedRun(_name(run, runs), file, accuracy, len(content), zipped, ratio, milliseconds, score))
    return [_judged(run, found) for run in found]


def _judged(run: ComparedRun, others: Sequence[ComparedRun]) -> ComparedRun:
    def costs(one: ComparedRun) -> tuple[float, ...]:
        return (-one.accuracy, one.size, *(() if one.milliseconds is None else (one.milliseconds,)))

    beaten = any(
        all(theirs <= ours for theirs, ours in zip(costs(other), costs(run), strict=True)) and costs(other) != costs(run)
        for other in others
    )
    return replace(run, best=not beaten)


def table(runs: Sequence[ComparedRun]) -> TextTable:
    """A line per run, the best score or else the most accurate first. *: on the Pareto front."""
    columns = ["", "run", "accuracy", "bytes", "zipped", "ratio"]
    has_latency, has_score = runs[0].milliseconds is not None, runs[0].score is not None
    columns += (["1 sample, ms"] if has_latency else []) + (["score"] if has_score else [])
    shown = []
    for run in sorted(runs, key=lambda run: (-(run.score or 0.0), -run.accuracy, run.size)):
        numbers = [f"{run.accuracy:.4f}", f"{run.size:,}", f"{run.zipped:,}", f"{run.ratio:.2f}x"]
        numbers += [f"{run.milliseconds:.3f}"] if run.milliseconds is not None else []
        numbers += [f"{run.score:.4f}"] if run.score is not None else []
        shown.append(("*" if run.best else "", run.name, *numbers))
    return TextTable("", shown, columns)


def draw(runs: Sequence[ComparedRun], path: Path) -> Path:
    """Accuracy against bytes, and against latency where it was measured, with the Pareto front; written to `path` as PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("compare: matplotlib is not installed: pip install matplotlib") from None
    panels: list[tuple[str, Any]] = [("kilobytes", lambda run: run.size / 1e3)]
    if runs[0].milliseconds is not None:
        panels.append(("milliseconds for one sample", lambda run: run.milliseconds))
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axes, (label, cost) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        front = _front([(cost(run), run.accuracy) for run in runs])
        axes.step(*zip(*front, strict=True), where="post", color="#b0c4de", zorder=1, label="Pareto front")
        for run in runs:
            at = cost(run), run.accuracy
            axes.scatter(*at, color="#4a7fb5" if at in front else "#b0b0b0", zorder=2)
            axes.annotate(run.name, at, textcoords="offset points", xytext=(5, 5), fontsize=8)
        axes.set(xlabel=label, ylabel="accuracy", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.margins(0.2)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (cost, accuracy) that are more accurate than all that cost as much or less."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _name(run: Path, runs: Sequence[Path]) -> str:
    """The folder's name, or all of its path where another run's is the same."""
    names = [other.resolve().name for other in runs]
    name = run.resolve().name
    return name if names.count(name) == 1 else str(run)


def _model_file(run: Path) -> Path:
    """The run's only file of a kind; of several the one that is named as the checkpoint is."""
    if run.is_file():
        return run
    if not run.is_dir():
        raise ValueError(f"{run}: no such folder, expected one with a {FILE} and a model file")
    for suffix in _MODELS:
        files = sorted(run.glob(f"*{suffix}"))
        named = [file for file in files if len(files) > 1 and file.with_suffix(_MODELS[-1]).is_file()] or files
        if len(named) == 1:
            return named[0]
        if files:
            names = ", ".join(file.name for file in files[:3])
            raise ValueError(f"{run}: found {len(files)} {suffix} files ({names}), expected one: name it instead of the folder")
    raise ValueError(f"{run}: found no model file, expected one {', '.join(_MODELS[:-1])} or {_MODELS[-1]}")


def _accuracy(run: Path, metric: str | None) -> float:
    records = read_log(run)
    metrics = records[-1]["metrics"] if records else {}
    name = metric or next((name for name in _ACCURACIES if name in metrics), None)
    if name is None or name not in metrics:
        wanted = metric or " or ".join(_ACCURACIES)
        close = nearest(wanted, metrics)
        advice = f"did you mean {close!r}?" if close else f"it has {', '.join(metrics) or 'none'}"
        raise ValueError(f"{run / FILE}: the last epoch has no metric {wanted!r}, {advice}")
    return float(metrics[name])


def _latencies(files: Sequence[Path], rounds: int = 101) -> list[float]:
    """Median milliseconds of one sample in each ONNX file; the files take turns, so that a disturbance falls on all of them."""
    from nncf_ext.export.parity import run, session

    runners = []
    for file in files:
        if file.suffix != ".onnx":
            raise ValueError(f"{file}: latency is measured in ONNX Runtime, expected an .onnx file")
        runner = session(file)
        runners.append((runner, [_example(value, file) for value in runner.get_inputs()]))
    seconds: list[list[float]] = [[] for _ in runners]
    for turn in range(-5, rounds):
        for (runner, inputs), taken in zip(runners, seconds, strict=True):
            start = time.perf_counter()
            run(runner, inputs)
            if turn >= 0:
                taken.append(time.perf_counter() - start)
    return [1e3 * statistics.median(taken) for taken in seconds]


def _example(value: Any, file: Path) -> np.ndarray:
    """One sample of an input; dimensions that the file leaves open are 1."""
    dtype = _TYPES.get(value.type)
    if dtype is None:
        raise ValueError(f"{file}: input {value.name} is a {value.type}, expected one of {', '.join(_TYPES)}")
    shape = [1 if not isinstance(size, int) or axis == 0 else size for axis, size in enumerate(value.shape)]
    return np.ones(shape, dtype)
