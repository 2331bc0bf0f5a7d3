"""The tutorial runs from its first cell to its last, prints no warning, and is committed with its outputs."""

import importlib.util
import shutil
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOK = FOLDER / "keras_quickstart.ipynb"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs(tool, tmp_path):
    notebook = tool.execute(Path(shutil.copy(NOTEBOOK, tmp_path)))
    assert tool.complaints(notebook) == []


def test_it_is_committed_with_outputs(tool):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    assert tool.complaints(notebook) == []
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # the digits, the curves, the histograms, the sizes
