"""Running contestants in processes and environments of their own, and showing what came out, on the terminal and in docs/."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"

Result = Mapping[str, Any]  # what a worker measured, or {"error": one line}


def report_result(measure: Callable[[], Result]) -> None:
    """In a worker: print what `measure` returns, or why it failed, as the line that `run_worker` reads."""
    try:
        result = measure()
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        result = {"error": f"{type(error).__name__}: {lines[0]}"}
    print(json.dumps(result), flush=True)


def run_worker(environment: str, module: str, *arguments: str, limit: int = 1200, **variables: str) -> Result:
    """Run `python -m module arguments` in the virtual environment `environment` ("" for this one); at most `limit` seconds."""
    python = sys.executable
    if environment:
        python = str(ROOT / environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        if not Path(python).exists():
            return {"error": f"{environment} is not there: make {environment}/installed"}
    try:
        done = subprocess.run(
            [python, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"} | variables,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {limit} s"}
    printed = done.stdout.strip().splitlines()
    try:
        return json.loads(printed[-1])
    except (IndexError, json.JSONDecodeError):
        complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": complaint[-1]}


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Print a table; returns it as Markdown."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, ["---"] * len(header), *rows)
    ]
    return "\n".join([f"**{title}**", "", *lines, ""])


def write_section(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between `<!-- measured: name -->` and `<!-- end -->` in `document`."""
    content = document.read_text(encoding="utf-8")
    section = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    changed, found = section.subn(lambda match: f"{match[1]}\n{text.strip()}\n\n{match[2]}", content)
    if found != 1:
        raise ValueError(f"{document.name}: expected one section `measured: {name}`, found {found}")
    document.write_text(changed, encoding="utf-8")


def machine() -> str:
    """The processor, as a reader of a table wants to know it."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE) if information.exists() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
