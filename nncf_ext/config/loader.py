"""JSON as NNCF 2.x reads it: with `//` and `/* */` comments and trailing commas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nncf_ext.config.errors import ConfigError

_TOKEN = re.compile(r'(?P<blank>\s+)|(?P<comment>//[^\n]*|/\*.*?\*/)|"(?:[^"\\]|\\.)*"|.', re.DOTALL)
_HINTS = {"'": "strings take double quotes", "#": "comments start with // or stand between /* and */"}


def load(path: str | Path) -> Any:
    """The content of a JSON file. OSError where it cannot be read, ConfigError `file:line:column: ...` where it is not JSON."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: found a file that is not UTF-8 text ({error.reason}), expected JSON") from None
    return loads(text, str(path))


def loads(text: str, name: str = "<config>") -> Any:
    """The value of JSON `text`; `name` stands for the file in messages. Of duplicate keys the last wins."""
    plain = _without_comments(text)
    try:
        return json.loads(plain, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        hint = _HINTS.get(plain[error.pos : error.pos + 1])
        problem = f"{error.msg[:1].lower()}{error.msg[1:]}{f' ({hint})' if hint else ''}"
        raise ConfigError(
            f"{name}:{error.lineno}:{error.colno}: not JSON: {problem}\n    {line}\n    {' ' * (error.colno - 1)}^"
        ) from None
    except RecursionError:
        raise ConfigError(f"{name}: found arrays or objects nested too deeply to read, expected a config") from None
    except ValueError as error:  # a constant that JSON lacks, or an integer too long to convert
        raise ConfigError(f"{name}: not JSON: {error}") from None


def _without_comments(text: str) -> str:
    """`text` with comments and trailing commas blanked; every other character stays where it is, so positions stay true."""
    pieces: list[str] = []
    comma: int | None = None  # index in `pieces` of a comma that only blanks have followed so far
    last = ""  # last token that is no blank
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.group("comment"):
            token = re.sub(r"[^\n]", " ", token)
        elif not match.group("blank"):
            if token in ("]", "}") and comma is not None:
                pieces[comma] = " "
            comma = len(pieces) if token == "," and last not in ("", "[", "{", ",") else None
            last = token
        pieces.append(token)
    return "".join(pieces)


def _reject_constant(constant: str) -> None:
    raise ValueError(f"found the constant {constant}, expected a finite number")
