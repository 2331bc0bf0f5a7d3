"""Pictures of a run: curves over its epochs, and bars for its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nncf_ext.training.run_log import read_log

_MOST_LAYERS = 60  # in one bar chart; of more, the first and the last are shown


def plot_run(folder: Path, output: Path | None = None) -> list[Path]:
    """Write `curves.png` and one `layers_<algorithm>_<number>.png` per layer-wise number; returns the files.

    output: where to, instead of the run's folder. ValueError where matplotlib is not installed or the log is no log.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot: matplotlib is not installed: pip install matplotlib") from None
    records = read_log(folder)
    target = output or (folder if folder.is_dir() else folder.parent)
    target.mkdir(parents=True, exist_ok=True)
    if not records:
        raise ValueError(f"{folder}: found a log without an epoch, expected one at least")
    return [_curves(Figure, records, target / "curves.png"), *_layers(Figure, records[-1], target)]


def _curves(figure_class: Any, records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """One panel for each group of numbers that were logged; a number that never changes is left out of the statistics."""
    panels = []
    for group in ("metrics", "loss_terms", "statistics"):
        series = _series(records, group)
        if group == "statistics":
            series = {name: values for name, values in series.items() if len({y for _, y in values}) > 1}
        panels += _by_size(group.replace("_", " "), series)
    figure = figure_class(figsize=(7, 2.6 * max(len(panels), 1)), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(max(len(panels), 1), squeeze=False)[:, 0], panels, strict=False):
        for name, values in series.items():
            axes.plot([x for x, _ in values], [y for _, y in values], marker="o", markersize=3, label=name)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    return path


def _series(records: Sequence[Mapping[str, Any]], group: str) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in record.get(group, {}).items():
            series.setdefault(name, []).append((record["epoch"], value))
    return series


def _by_size(title: str, series: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Shares (0 to 1) and other numbers in panels of their own: they have no common scale."""
    shares = {name: values for name, values in series.items() if all(0 <= y <= 1 for _, y in values)}
    others = {name: values for name, values in series.items() if name not in shares}
    return [(title, part) for part in (shares, others) if part]


def _layers(figure_class: Any, record: Mapping[str, Any], target: Path) -> list[Path]:
    paths = []
    for name, by_layer in record.get("layers", {}).items():
        layers = list(by_layer.items())
        left_out = len(layers) - _MOST_LAYERS
        if left_out > 0:
            layers = layers[: _MOST_LAYERS // 2] + layers[-_MOST_LAYERS // 2 :]
        figure = figure_class(figsize=(9, 1.2 + 0.2 * len(layers)), layout="constrained")
        axes = figure.subplots()
        axes.barh([_short(layer) for layer, _ in layers], [value for _, value in layers], color="#4a7fb5")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        note = f" ({left_out} layers in the middle are not shown)" if left_out > 0 else ""
        axes.set(title=f"{name} after epoch {record['epoch']}{note}", ylim=(len(layers) - 0.4, -0.6))
        axes.grid(axis="x", alpha=0.3)
        path = target / f"layers_{name.replace('/', '_').replace(' ', '_')}.png"
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"…{name[-59:]}"
