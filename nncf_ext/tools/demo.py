"""What the two frameworks' demos share: the data (scikit-learn's scans of handwritten digits), the measurements, the table."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nncf_ext.text_table import TextTable
from nncf_ext.training.run_log import FILE

FLOAT_EPOCHS = 10
COMPRESSED_EPOCHS = 8
BATCH_SIZE = 64
SEED = 0


@dataclass(frozen=True)
class Digits:
    """Images (n, 8, 8) in 0..1 and labels; split once, the same in every framework."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Measured:
    """One row of the demo's table."""

    what: str
    accuracy: float
    bytes: int = 0
    milliseconds: float = 0.0


def load_digits() -> Digits:
    from sklearn.datasets import load_digits as digits
    from sklearn.model_selection import train_test_split

    data: Any = digits()
    images = (data.images / 16.0).astype(np.float32)
    split: Any = train_test_split(images, data.target, test_size=0.25, random_state=SEED, stratify=data.target)
    train_x, test_x, train_y, test_y = split
    return Digits(train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


def config_file() -> AbstractContextManager[Path]:
    """The demo's config, which is `configs/demo.json` of the repository."""
    return as_file(files("nncf_ext.configs") / "demo.json")


def without_log(folder: Path) -> Path:
    """The folder, in which no log of an earlier demo is left."""
    (folder / FILE).unlink(missing_ok=True)
    return folder


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )


def measure_onnx(path: Path, images: np.ndarray, labels: np.ndarray) -> Measured:
    """Accuracy in ONNX Runtime over all `images`, bytes on disk, and median time of one image on one thread."""
    from nncf_ext.export.parity import run, session

    runner = session(path)
    (logits,) = run(runner, [images])
    return Measured(
        path.name,
        float((logits.argmax(1) == labels).mean()),
        path.stat().st_size,
        1e3 * median_seconds(lambda: run(runner, [images[:1]])),
    )


def median_seconds(call: Callable[[], Any], repeat: int = 200) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[repeat // 10 :])


def show(framework: str, rows: list[Measured], folder: Path, seconds: float) -> None:
    """Print the result and keep it in `folder` as result.json."""
    (folder / "result.json").write_text(
        json.dumps({"framework": framework, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    columns = ("", "accuracy", "bytes", "smaller", "1 image")
    largest = max(row.bytes for row in rows)
    shown = []
    for row in rows:
        size = (f"{row.bytes:,}", f"{largest / row.bytes:.2f}x", f"{row.milliseconds:.3f} ms") if row.bytes else ("", "", "")
        shown.append((row.what, f"{row.accuracy:.2%}", *size))
    console = Console()
    console.print(TextTable(f"{framework}: handwritten digits", shown, columns))
    console.print(f"{seconds:.0f} s; files in {folder}", highlight=False, soft_wrap=True)
    run = os.path.relpath(folder)
    for words in (f"plot {run}", f"inspect {run}", f"compare {run} --original {run}/float.onnx"):
        console.print(f"  nncf-ext {words}", highlight=False, soft_wrap=True)
