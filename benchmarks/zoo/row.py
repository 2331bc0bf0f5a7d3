"""Rows of the zoo: a model in a process of its own, and what becomes of it, column by column.

python -m benchmarks.zoo.row FAMILY NAME... [--columns COLUMN...]     prints each row as one line of JSON
python -m benchmarks.zoo.row FAMILY --list                            prints the family's names
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.zoo.integer_share import integer_share

INT8 = {"algorithm": "quantization"}
FILTERS = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.3,
    "params": {"pruning_target": 0.3, "all_weights": True, "prune_first_conv": True, "prune_downsample_convs": True},
}
RIGL = {
    "algorithm": "dynamic_sparse_training",
    "params": {"method": "rigl", "sparsity_target": 0.8, "update_interval": 1, "end": 100},
}
OUTPUTS = {"type": "mse"}

COLUMNS = ("attach", "train", "resume", "strip", "export", "parity", "integer", "filters", "rigl", "distil")
LIMIT = 1800  # seconds of a processor for a row
MODULES = {
    "torchvision": "benchmarks.zoo.torchvision_models",
    "timm": "benchmarks.zoo.timm_models",
    "transformers": "benchmarks.zoo.transformers_models",
    "keras.applications": "benchmarks.zoo.keras_applications",
    "keras idioms": "benchmarks.zoo.keras_idioms",
}


class Subject(Protocol):
    """A model with inputs and a loss, behind which both frameworks are alike. `model` is the float one and stays as it is."""

    model: Any
    varying: bool  # whether how many outputs there are is decided by numbers (detections)
    distilled: Mapping[str, Any]  # what of the teacher the column `distil` compares

    def weights(self, model: Any) -> int:
        """Numbers in its weights."""
        ...

    def fresh(self) -> Any:
        """Another model with the same weights."""
        ...

    def compress(self, model: Any, algorithms: Sequence[Mapping[str, Any]], state: Any = None) -> tuple[Any, Any]:
        """(controller, model), with the subject's batch as data."""
        ...

    def outputs(self, model: Any) -> list[np.ndarray]:
        """In inference mode, for the subject's batch."""
        ...

    def train(self, controller: Any, model: Any, steps: int) -> tuple[list[float], set[str]]:
        """Losses of the steps, and the names of the weights that a finite gradient reached. ValueError for one that is not."""
        ...

    def trained_float(self) -> set[str]:
        """The names of the weights that a gradient reaches in the float model."""
        ...

    def export_float(self, path: Path) -> None:
        """With the framework's own exporter, to tell what cannot be exported in float either."""
        ...


class Wrong(Exception):
    """What is worse than an error: a result that is not right, without one."""


def examine(subject: Subject, columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
    """What came of each column: "ok", or how it begins with "refused: ", "wrong: " or "crash: "; and numbers."""
    row: dict[str, Any] = {"weights": subject.weights(subject.model), "cells": {}, "seconds": {}}
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for column in columns:
            need = {"train": "attach", "resume": "attach", "strip": "attach", "export": "attach"}.get(column)
            need = {"parity": "export", "integer": "export"}.get(column, need)
            if need is not None and row["cells"].get(need) != "ok":
                row["cells"][column] = "not reached"
                continue
            start = time.process_time()
            row["cells"][column] = _cell(lambda column=column: _STEPS[column](subject, made, row, path))
            row["seconds"][column] = round(time.process_time() - start, 2)
    return row


def _cell(step: Callable[[], None]) -> str:
    from nncf_ext.errors import ConfigError

    try:
        step()
    except Wrong as error:
        return f"wrong: {error}"
    except ConfigError as error:
        return f"refused: {_one_line(error)}"
    except MemoryError:
        return "crash: MemoryError"
    except Exception as error:  # whatever it is, it is the row's result
        said = _one_line(error)
        ours = isinstance(error, ValueError | RuntimeError) and _raised_here(error)
        return f"refused: {said}" if ours else f"crash: {type(error).__name__}: {said}"
    return "ok"


def _raised_here(error: BaseException) -> bool:
    """Whether it is nncf_ext that says it, not something beneath it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "nncf_ext" in trace.tb_frame.f_globals.get("__name__", "")


def _one_line(error: BaseException) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:400]


def _attach(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    before = subject.outputs(subject.model)
    model = subject.fresh()
    start = time.process_time()
    made["controller"], made["model"] = subject.compress(model, [INT8])
    row["attach s"] = round(time.process_time() - start, 2)
    row["edits"] = len(made["controller"].plan)
    row["left alone"] = len(made["controller"].plan.skipped)
    if not row["edits"]:
        raise Wrong("nothing was quantized")
    after = subject.outputs(made["model"])
    row["error"] = None if subject.varying else _relative(before, after)


def _train(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    _trains(subject, made["controller"], made["model"])
    missing = subject.trained_float() - made.setdefault("reached", subject.train(made["controller"], made["model"], 1)[1])
    if missing:
        raise Wrong(f"no gradient reaches {sorted(missing)[0]} ({len(missing)} weights), in float one does")


def _trains(subject: Subject, controller: Any, model: Any) -> None:
    losses, _ = subject.train(controller, model, 2)
    if not np.isfinite(losses).all():
        raise Wrong(f"losses {losses}")


def _resume(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    file = path / "checkpoint.safetensors"
    made["controller"].save_checkpoint(file)
    controller, model = subject.compress(subject.fresh(), [INT8], made["controller"].get_compression_state())
    controller.load_checkpoint(file)
    _same(subject.outputs(made["model"]), subject.outputs(model), 0.0)


def _strip(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    _same(subject.outputs(made["model"]), subject.outputs(made["controller"].strip()), 0.02)


def _export(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    made["report"] = _exported(subject, made["controller"], path / "int8.onnx", row)
    row["bytes"] = (path / "int8.onnx").stat().st_size


def _exported(subject: Subject, controller: Any, path: Path, row: dict[str, Any]) -> Any:
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            report = controller.export_model(path)
        row["told at export"] = sorted({_one_line(w.message) for w in told if "nncf_ext" in w.filename})  # type: ignore[arg-type]
        return report
    except Exception:
        try:
            subject.export_float(path.with_suffix(".float.onnx"))
        except Exception as error:
            row["float export"] = f"{type(error).__name__}: {_one_line(error)}"
        raise


def _parity(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    report = made["report"]
    if report is None:
        raise Wrong("no report")
    row["lsb"], row["report"] = round(float(report.lsb), 2), str(report)
    if not report.exact:
        raise Wrong(str(report))


def _integer(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    row["integer"] = integer_share(path / "int8.onnx")


def _filters(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    controller, model = subject.compress(subject.fresh(), [FILTERS, INT8])
    _trains(subject, controller, model)
    smaller = controller.strip()
    row["weights left"] = round(subject.weights(smaller) / row["weights"], 3)
    report = _exported(subject, controller, path / "pruned.onnx", row)
    _same(subject.outputs(model), subject.outputs(smaller), 0.02, 4 * getattr(report, "own", 0.0))
    if report is not None and not report.exact:
        raise Wrong(str(report))


def _rigl(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    controller, model = subject.compress(subject.fresh(), [RIGL])
    _trains(subject, controller, model)
    zeros = controller.statistics().dynamic_sparse_training.sparsity_level_for_layers
    row["zeros"] = round(float(zeros), 3)
    if zeros < 0.79:
        raise Wrong(f"{zeros:.3f} of the connections are zero, 0.8 were asked for")


def _distil(subject: Subject, made: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    controller, model = subject.compress(subject.fresh(), [INT8, {"algorithm": "knowledge_distillation", **subject.distilled}])
    _trains(subject, controller, model)


_STEPS = {
    "attach": _attach,
    "train": _train,
    "resume": _resume,
    "strip": _strip,
    "export": _export,
    "parity": _parity,
    "integer": _integer,
    "filters": _filters,
    "rigl": _rigl,
    "distil": _distil,
}


def _relative(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Distance over length, the worst output's. Wrong where there are other outputs, or numbers that are none."""
    worst = 0.0
    if len(expected) != len(found):
        raise Wrong(f"{len(found)} outputs, expected {len(expected)}")
    for e, f in zip(expected, found, strict=True):
        if e.shape != f.shape:
            raise Wrong(f"an output of shape {f.shape}, expected {e.shape}")
        if not np.isfinite(f).all() and np.isfinite(e).all():
            raise Wrong("outputs that are not finite")
        worst = max(worst, float(np.linalg.norm(f - e) / (np.linalg.norm(e) or 1.0)))
    return round(worst, 4)


def _same(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], tolerance: float, own: float = 0.0) -> None:
    """own: what the model differs from itself, in the outputs' unit, as in decision 27."""
    distance = _relative(expected, found)
    if distance > tolerance and not all(np.abs(f - e).max(initial=0.0) <= own for e, f in zip(expected, found, strict=True)):
        raise Wrong(f"outputs differ by {distance} of their length, expected at most {tolerance}")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.row")
    parser.add_argument("family", choices=MODULES)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=COLUMNS)
    options = parser.parse_args(arguments)
    module = importlib.import_module(MODULES[options.family])
    if options.list:
        print(json.dumps(list(module.NAMES)))
        return
    warnings.simplefilter("ignore")
    for name in options.names:
        if len(options.names) == 1:
            print(_row(module, name, options.columns), flush=True)
        else:
            _in_a_fork(module, name, options.columns)


def _row(module: Any, name: str, columns: Sequence[str]) -> str:
    if sys.platform != "win32":  # whatever hangs ends here
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 10))
        signal.alarm(8 * LIMIT)
    return json.dumps({"name": name, **examine(module.subject(name), columns)})


def _in_a_fork(module: Any, name: str, columns: Sequence[str]) -> None:
    """A process of its own that need not import anything again: half the time of a small model."""
    child = os.fork()
    if not child:
        try:
            print(_row(module, name, columns), flush=True)
        except Exception as error:
            print(json.dumps(broken(name, f"{type(error).__name__}: {_one_line(error)}")), flush=True)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        ended = os.WTERMSIG(status)
        print(json.dumps(broken(name, ended_by(ended))), flush=True)


def ended_by(number: int) -> str:
    ends = {"SIGALRM": f"no result after {8 * LIMIT} s", "SIGXCPU": f"no result after {LIMIT} s of a processor"}
    name = signal.Signals(number).name
    return ends.get(name, name)


def broken(name: str, why: str) -> dict[str, Any]:
    """The row of a process that made none."""
    return {"name": name, "cells": {"attach": f"crash: {why}"}}


if __name__ == "__main__":
    main(sys.argv[1:])
