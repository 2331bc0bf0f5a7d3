"""The examples in docstrings, as tests."""

from __future__ import annotations

import doctest
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FLAGS = doctest.ELLIPSIS


def examples_of(module: ModuleType, names: Sequence[str], using: Mapping[str, Any]) -> list[doctest.DocTest]:
    """Those of the public classes and functions `names` of a module. using: what they may use besides these."""
    finder, found = doctest.DocTestFinder(), []
    public = {name: getattr(module, name) for name in names}
    for name in names:
        value = getattr(module, name)
        found += [test for test in finder.find(value, name, globs={**public, **using}) if test.examples]
    return found


def run(test: doctest.DocTest) -> None:
    """AssertionError with what was expected and what came."""
    report = io.StringIO()
    results = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write)
    assert not results.failed, report.getvalue()


def run_page(name: str) -> dict[str, Any]:
    """What the program that the Python blocks of a page in docs/ make up has defined in the end."""
    text = (Path(__file__).resolve().parents[1] / "docs" / name).read_text(encoding="utf-8")
    told: dict[str, Any] = {}
    exec(compile("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)), name, "exec"), told)
    return told
