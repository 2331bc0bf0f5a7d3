"""What people read: statistics as tables, progress of long work."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from nncf_ext.text_table import TextTable
from nncf_ext.untouched import Untouched

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str, size_of: Callable[[T], int]) -> Iterator[T]:
    """`items` with a progress bar on an interactive terminal, without one elsewhere. Each advances it by `size_of(item)`."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task, size_of(item))


@dataclass(frozen=True)
class CompressionStatistics:
    """Reports by algorithm name, each also an attribute: `statistics().magnitude_sparsity.sparsity_level`.

    skipped: nodes, and parameters that no node owns, which are not compressed, each with the reason. untouched: how much of the
    model's weights that is; None where algorithms take all of them, or none is about weights.
    """

    reports: Mapping[str, Any]
    skipped: tuple[tuple[str, str], ...] = ()
    untouched: Untouched | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "reports" or name not in self.reports:
            raise AttributeError(f"no statistics of {name!r}; there are {sorted(self.__dict__.get('reports', {}))}")
        return self.reports[name]

    def to_str(self) -> str:
        found = [table for name, report in self.reports.items() if report is not None for table in tables(name, report)]
        if self.untouched is not None:
            found += tables("weights that stay as they are", self.untouched)
        if self.skipped:
            found.append(rows("not compressed", ["node", "reason"], self.skipped))
        return "\n".join(render(table) for table in found)

    def __str__(self) -> str:
        return self.to_str()


def prepare_for_tensorboard(statistics: CompressionStatistics) -> dict[str, float]:
    """`plain_numbers`, and the same once more by NNCF 2.x's names."""
    of_nncf = {
        f"{algorithm}/{name}": float(value)
        for algorithm, report in statistics.reports.items()
        for name, value in getattr(report, "tensorboard_scalars", {}).items()
    }
    return {**plain_numbers(statistics), **of_nncf}


def plain_numbers(statistics: CompressionStatistics) -> dict[str, float]:
    """The plain numbers of all reports, by `<algorithm>/<name>`."""
    return {
        f"{algorithm}/{field.name}": float(getattr(report, field.name))
        for algorithm, report in statistics.reports.items()
        if report is not None
        for field in fields(report)
        if isinstance(getattr(report, field.name), int | float)
    }


def layer_numbers(statistics: CompressionStatistics) -> dict[str, dict[str, float]]:
    """The numbers of the reports' rows that have a name, by `<algorithm>/<number>` and the row's name."""
    found: dict[str, dict[str, float]] = {}
    for algorithm, report in statistics.reports.items():
        named = (
            [row for field in fields(report) for row in _named_rows(getattr(report, field.name))] if report is not None else []
        )
        for row in named:
            for field in fields(row):
                value = getattr(row, field.name)
                if isinstance(value, int | float):
                    found.setdefault(f"{algorithm}/{field.name}", {})[row.name] = float(value)
    return found


def _named_rows(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) and value and is_dataclass(value[0]) and hasattr(value[0], "name") else ()


def tables(title: str, report: Any) -> list[TextTable]:
    """A dataclass as tables: its plain fields as one, each field with several rows as another."""
    plain: list[tuple[Any, ...]] = []
    extra: list[TextTable] = []
    for field in fields(report):
        value = getattr(report, field.name)
        if isinstance(value, Mapping) and not value:
            continue
        if isinstance(value, Mapping):
            extra.append(rows(f"{title}: {field.name}", None, [(*_flat(key), count) for key, count in sorted(value.items())]))
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            names = [f.name for f in fields(value[0])]
            extra.append(rows(f"{title}: {field.name}", names, [tuple(getattr(row, n) for n in names) for row in value]))
        elif isinstance(value, tuple):
            extra.extend([rows(f"{title}: {field.name}", None, [_flat(row) for row in value])] if value else [])
        else:
            plain.append((field.name.replace("_", " "), value))
    return ([rows(title, None, plain)] if plain else []) + extra


def render(table: TextTable) -> str:
    """A table as plain text, as wide as it needs and the terminal is; up to 200 characters where there is none."""
    width = shutil.get_terminal_size(fallback=(200, 24)).columns
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False)  # names have [brackets]
    console.print(table)
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue().rstrip()


def rows(title: str, names: Sequence[str] | None, values: Sequence[tuple[Any, ...]], lines: bool = False) -> TextTable:
    """A table of `values`, row by row. names: of the columns. lines: between the rows, for those with cells of several lines."""
    size = max((len(row) for row in values), default=1)
    cells = [[_shown(value) for value in row] + [""] * (size - len(row)) for row in values]
    return TextTable(title, cells, names and [name.replace("_", " ") for name in names], lines)


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
