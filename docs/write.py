"""Writes what the documentation says of the code: the keys of configs, and the command line. `make docs` runs it.

python docs/write.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from nncf_ext.algorithms import ALGORITHMS
from nncf_ext.nncf_config import json_schema
from nncf_ext.tools.cli import command_line
from nncf_ext.tools.config_reference import keys, page

DOCS = Path(__file__).resolve().parent

_COMMAND_LINE = """\
# The command line

`nncf-ext COMMAND --help` says the same as this page, which is written from the program by `make docs`. Tables fit the terminal;
where names of layers are cut, `COLUMNS=200 nncf-ext ...` shows all of them.
"""


def pages() -> Iterator[tuple[Path, str]]:
    """The pages that have parts made of the code, with what they are to say."""
    schema = json_schema()
    yield DOCS / "config.md", page(schema)
    yield DOCS / "cli.md", command_line_page(command_line())
    for algorithm in ALGORITHMS:
        path = DOCS / "algorithms" / f"{algorithm}.md"
        yield path, with_keys(path.read_text(encoding="utf-8"), algorithm, keys(schema, algorithm, "../config.md"))


def with_keys(text: str, algorithm: str, table: str) -> str:
    """An algorithm's page with this table between its marks."""
    begin, end = f"<!-- keys: {algorithm} -->", "<!-- end -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{algorithm}.md: found no {begin} and {end}, expected both")
    return f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


def command_line_page(parser: argparse.ArgumentParser) -> str:
    """Markdown: each command with its arguments, and the exit codes."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in commands._choices_actions}
    lines = [_COMMAND_LINE]
    for name, command in commands.choices.items():
        actions = [action for action in command._actions if action.dest != "help"]
        lines += [f"## {name}", "", f"{_sentence(helps[name] or '')}", ""]
        lines += ["```", *_wrapped([command.prog, *map(_usage, actions)]), "```", ""]
        if actions:
            lines += ["| argument | what it is |", "| --- | --- |"]
            lines += [f"| `{_in_table(_name(action))}` | {_in_table(_meaning(action))} |" for action in actions]
            lines += [""]
        if command.epilog:
            lines += ["For example:", "", "```", *command.epilog.removeprefix("example: ").splitlines(), "```", ""]
    lines += ["## Exit codes", "", _sentence(re.sub(r"\s+", " ", parser.epilog or "").removeprefix("exit codes: "))]
    return "\n".join(lines) + "\n"


def _usage(action: argparse.Action) -> str:
    text = _name(action)
    if action.nargs == "+":
        text = f"{text} [{action.metavar} ...]"
    return text if action.required else f"[{text}]"


def _name(action: argparse.Action) -> str:
    value = "|".join(map(str, action.choices)) if action.choices else action.metavar or action.dest.upper()
    if not action.option_strings:
        return str(value)
    return action.option_strings[-1] if action.nargs == 0 else f"{action.option_strings[-1]} {value}"


def _meaning(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default}


def _wrapped(words: list[str]) -> Iterator[str]:
    """Lines of what is typed, broken between arguments."""
    line, *rest = words
    for word in rest:
        if len(line) + 1 + len(word) > 100:
            yield f"{line} \\"
            line = f"    {word}"
        else:
            line += f" {word}"
    yield line


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
