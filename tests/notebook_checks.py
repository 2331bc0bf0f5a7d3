"""What holds for every tutorial: it runs to its last cell without a warning, and is committed with its outputs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_it_runs(name: str, folder: Path) -> None:
    tool = _tool()
    notebook = tool.execute(Path(shutil.copy(FOLDER / name, folder)))
    assert tool.complaints(notebook) == []


def check_it_is_committed_with_outputs(name: str, pictures: int) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    assert _tool().complaints(notebook) == []
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == pictures
