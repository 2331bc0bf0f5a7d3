"""Runs the notebooks of this folder, or those named on the command line, and writes their outputs back into them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
# What the kernel is told: no log of its own, and nothing that C++ libraries write past Python (TensorFlow, on import).
QUIET = ["--log-level=ERROR", "--IPKernelApp.capture_fd_output=False"]
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "NO_COLOR": "1", "PYTHONHASHSEED": "0"}


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; `nbclient.exceptions.CellExecutionError` where a cell fails. The file stays as it is."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as empty:  # as a user's folder, which is not the repository
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": empty}}, extra_arguments=QUIET)
        client.execute(env={**os.environ, **ENVIRONMENT})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata.pop("language_info", None)  # the version of Python that ran it
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text in the outputs."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    return "\n".join(texts)


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """What must not be in committed outputs: anything on stderr (warnings), and paths of this machine."""
    streams = [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]
    problems = [f"on stderr: {stream['text'].strip()}" for stream in streams]
    paths = {str(Path.home()), str(FOLDER.parent), sys.prefix, "/tmp/"}
    return problems + [f"a path of this machine: {path}" for path in sorted(paths) if path != "/" and path in printed(notebook)]


def main(paths: list[str]) -> int:
    failed = 0
    for path in [Path(path) for path in paths] or sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(path)
        problems = complaints(notebook)
        for problem in problems:
            print(f"{path.name}: {problem}", file=sys.stderr)
        if problems:
            failed = 1
        else:
            nbformat.write(notebook, path)
            print(f"{path.name}: executed")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
