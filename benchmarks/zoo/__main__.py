"""The zoo: `make zoo`, or part of it.

python -m benchmarks.zoo [FAMILY...] [--only NAME...] [--quick] [--again] [--workers N]

Every row runs in a process of its own; PyTorch's are forked off one that has imported everything, which is half of a small row.
What is known already (benchmarks/zoo/rows/) is not run again, so that it goes on where it was stopped; --again forgets it. At the
end docs/zoo.md is written from all that is known. torchvision and timm run in .venv-zoo, with the newest PyTorch; the whole of it
takes some hours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.contest import ROOT
from benchmarks.zoo.row import MODULES, broken, ended_by
from benchmarks.zoo.table import write_document

KNOWN = Path(__file__).parent / "rows"
ENVIRONMENTS = {"torchvision": ".venv-zoo", "timm": ".venv-zoo"}
QUICK = {
    "torchvision": ("resnet18", "mobilenet_v3_small"),
    "timm": ("resnet18",),
    "transformers": ("bert", "gpt2", "vit", "t5"),
    "keras.applications": ("MobileNetV2",),
    "keras idioms": ("convolutions in a Sequential", "vision transformer, class token", "words, transformer", "series, LSTM"),
}
_SAID = ("seconds", "report", "told at export")  # of no use in the tables
FORKED = ("torchvision", "timm", "transformers") if hasattr(os, "fork") else ()  # TensorFlow does not outlive a fork


def python_of(family: str) -> str:
    environment = os.environ.get("NNCF_EXT_ZOO_VENV") or ENVIRONMENTS.get(family)
    if environment is None:
        return sys.executable
    return str(ROOT / environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def names_of(family: str) -> list[str]:
    """The family's names, remembered: timm needs a minute to tell them."""
    file = _names_file(family)
    if not file.exists():
        process = _started(family, "--list", stderr=subprocess.PIPE)
        listed, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"{family}: {(said.strip().splitlines() or ['no names'])[-1]} (make .venv-zoo/installed)")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(listed.strip().splitlines()[-1], encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def _names_file(family: str) -> Path:
    return KNOWN / f"{family}.names.json"


def known_of(family: str) -> dict[str, dict[str, Any]]:
    """The rows of a family by name, the latest of each."""
    file = KNOWN / f"{family}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def measure(family: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Their rows, each as soon as it is there, whatever happens to the process that makes them."""
    left = list(names)
    with tempfile.TemporaryFile("w+") as complaints, _started(family, *left, stderr=complaints) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                row = json.loads(line)
                left.remove(row["name"])
                yield row
        process.wait()
        complaints.seek(0)
        said = complaints.read().strip().splitlines() or [""]
    code = process.returncode
    for name in left:
        yield broken(name, ended_by(-code) if code < 0 else f"{said[-1][:300]} (exit code {code})")


def _started(family: str, *arguments: str, stderr: Any) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(ROOT / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(paths)}
    command = [python_of(family), "-m", "benchmarks.zoo.row", family, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, stderr=stderr, text=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(MODULES)}; all where none is named")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="models with such names; * is any")
    parser.add_argument("--quick", action="store_true", help="a dozen models")
    parser.add_argument("--again", action="store_true", help="measure anew what is known")
    parser.add_argument("--workers", type=int, default=1, help="rows at a time")
    parser.add_argument("--render", action="store_true", help="only write docs/zoo.md from what is known")
    options = parser.parse_args(arguments)
    families = options.families or list(MODULES)
    unknown = [family for family in families if family not in MODULES]
    if unknown:
        parser.error(f"found family {unknown[0]!r}, expected of {', '.join(MODULES)}")
    if not options.render:
        _measure(families, options)
    listed = {family: json.loads(file.read_text()) for family in MODULES if (file := _names_file(family)).exists()}
    write_document({family: known_of(family) for family in MODULES}, listed)
    return 0


def _measure(families: Sequence[str], options: argparse.Namespace) -> None:
    parts = []
    for family in families:
        names = QUICK[family] if options.quick else names_of(family)
        known = {} if options.again else known_of(family)
        wanted = [name for name in names if name not in known and any(fnmatch(name, only) for only in options.only)]
        at_once = 12 if family in FORKED else 1
        parts += [(family, wanted[i : i + at_once]) for i in range(0, len(wanted), at_once)]
    KNOWN.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with ThreadPoolExecutor(options.workers) as pool, Progress(*columns, console=console) as bar:
        task = bar.add_task("rows", total=sum(len(names) for _, names in parts))

        def some(part: tuple[str, list[str]]) -> None:
            family, names = part
            bar.update(task, description=f"{family}: {names[0]} ...")
            for row in measure(family, names):
                with (KNOWN / f"{family}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({key: value for key, value in row.items() if key not in _SAID}) + "\n")
                faults = {column: cell for column, cell in row["cells"].items() if cell not in ("ok", "not reached")}
                bar.console.print(f"{family}: {row['name']}: {faults or 'all right'}", markup=False, highlight=False)
                bar.advance(task)

        list(pool.map(some, parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
