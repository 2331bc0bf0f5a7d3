"""JSON as NNCF 2.x reads it: with `//` and `/* */` comments and trailing commas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import content_of, refused_as, reject_constant, whole_number

# What does not end goes to the end of the text: looking for it again from each further place would take quadratic time.
_TOKEN = re.compile(r'(?P<blank>\s+)|(?P<comment>//[^\n]*|/\*.*?\*/)|/\*.*|"(?:[^"\\]|\\.)*+"?|[^\s"/,\[\]{}]+|.', re.DOTALL)
MOST_BYTES, MOST_VALUES = 16 << 20, 100_000  # of a config
_SHOWN = 60  # characters on either side of a mistake
_HINTS = {"'": "strings take double quotes", "#": "comments start with // or stand between /* and */"}


def load(path: str | Path) -> Any:
    """The content of a JSON file. OSError where it cannot be read, ConfigError `file:line:column: ...` where it is not JSON."""
    with refused_as(ConfigError, path):
        content = content_of(Path(path), MOST_BYTES)
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: found a file that is not UTF-8 text ({error.reason}), expected JSON") from None
    return loads(text, str(path))


def loads(text: str, name: str = "<config>") -> Any:
    """The value of JSON `text`; `name` stands for the file in messages. Of duplicate keys the last wins."""
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ConfigError(f"{name}: found more than {MOST_VALUES:,} values, expected a config")
    plain = _without_comments(text)
    try:
        with refused_as(ConfigError, f"{name}: not JSON"):
            return json.loads(plain, parse_constant=reject_constant, parse_int=whole_number)
    except json.JSONDecodeError as error:
        hint = _HINTS.get(plain[error.pos : error.pos + 1])
        problem = f"{error.msg[:1].lower()}{error.msg[1:]}{f' ({hint})' if hint else ''}"
        raise ConfigError(f"{name}:{error.lineno}:{error.colno}: not JSON: {problem}{_pointed_at(text, error.pos)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: found arrays or objects nested too deeply to read, expected a config") from None


def _pointed_at(text: str, position: int) -> str:
    """The line of a mistake with a mark below it, cut where it is long."""
    start, end = text.rfind("\n", 0, position) + 1, text.find("\n", position)
    line = text[start : len(text) if end < 0 else end]
    column = position - start
    cut = max(0, column - _SHOWN)
    return f"\n    {line[cut : column + _SHOWN]}\n    {' ' * (column - cut)}^"


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
