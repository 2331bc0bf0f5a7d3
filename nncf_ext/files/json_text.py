"""JSON from files: its size and depth are looked at before it is parsed, so that parsing takes no more than what was declared."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import fstat
from pathlib import Path
from typing import Any

MOST_NESTED = 64  # arrays and objects in each other
_VALUE = 160  # bytes of memory that a value of JSON takes once it is parsed, about
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # to the end where it has none, so that the time is linear
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LARGEST = 1 << 64


class Unreadable(ValueError):
    """What is wrong with a file or a value in it, in words. Told as the error of that kind of file: see `refused_as`."""


@contextmanager
def refused_as(error: type[ValueError], where: object) -> Iterator[None]:
    """`Unreadable` becomes an `error` that begins with `where`."""
    try:
        yield
    except Unreadable as problem:
        raise error(f"{where}: {problem}") from None


def content_of(path: Path, most: int) -> bytes:
    """The bytes of a regular file. OSError where it cannot be read, Unreadable where it is none or has more than `most`."""
    with path.open("rb") as file:
        about = fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Unreadable("found a device or a pipe, expected a file")
        if about.st_size > most:
            raise Unreadable(f"found {about.st_size:,} bytes, expected {most:,} at most")
        content = file.read(most + 1)
    if len(content) > most:
        raise Unreadable(f"found more than {most:,} bytes, expected these at most")
    return content


def value_of(text: bytes, memory: int = 64 << 20, unique: bool = True, finite: bool = True) -> Any:
    """The value of JSON text. Unreadable where it is none, is not finite, or takes more than about `memory` bytes.

    unique: whether a key that an object has twice is refused; else the last one is taken. finite: whether NaN and Infinity are.
    """
    expect_small(text, memory)
    try:
        value = json.loads(
            text.decode("utf-8"),
            parse_constant=reject_constant if finite else float,
            parse_float=_finite if finite else float,
            parse_int=whole_number,
            object_pairs_hook=_object if unique else None,
        )
    except UnicodeDecodeError:
        raise Unreadable("found bytes that are not UTF-8 text, expected JSON") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"found no JSON at character {error.pos}: {error.msg[:1].lower()}{error.msg[1:]}") from None
    except RecursionError:
        raise Unreadable("found arrays or objects nested too deeply to read") from None
    if b"\\u" in text:
        expect_characters(json.dumps(value, ensure_ascii=False))
    return value


def value_in(path: Path, most: int = 64 << 20, finite: bool = True) -> Any:
    """The value of a JSON file of at most `most` bytes. OSError, or Unreadable."""
    return value_of(content_of(path, most), 4 * most, unique=False, finite=finite)


def expect_small(text: bytes, memory: int, nested: int = MOST_NESTED) -> None:
    """Unreadable where parsing JSON `text` would take more than about `memory` bytes, or it is nested deeper than `nested`."""
    values = text.count(b",") + text.count(b"[") + text.count(b"{") + text.count(b":")
    if 4 * len(text) + _VALUE * values > memory:
        raise Unreadable(f"found {values:,} values in {len(text):,} characters of JSON, more than memory is allowed for")
    depth = deepest = 0
    for byte in _TEXT.sub(b"", text).translate(_BRACKETS, _ALL_BUT_BRACKETS):
        depth += 1 if byte == 91 else -1
        deepest = max(deepest, depth)
        if deepest > nested:
            raise Unreadable(f"found arrays or objects nested more than {nested} deep")


def expect_plain(value: Any, most: int, nested: int = MOST_NESTED) -> list[str]:
    """The strings in JSON data made in Python, keys among them. Other objects are left alone.

    Unreadable where the data contain themselves, are nested deeper than `nested`, have more than `most` values, a whole number
    beyond 64 bits, or characters that no file can hold.
    """
    count, texts = 0, []
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        count += 1
        if count > most:
            raise Unreadable(f"found more than {most:,} values, expected these at most")
        if depth > nested:
            raise Unreadable(f"found arrays or objects nested more than {nested} deep, or an object inside of itself")
        if isinstance(item, str):
            expect_characters(item)
            texts.append(item)
        elif isinstance(item, bool | float):
            pass
        elif isinstance(item, int):
            expect_short(item)
        elif isinstance(item, Mapping):
            stack.extend((key, depth) for key in item if isinstance(key, str | int))
            stack.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list | tuple):
            stack.extend((child, depth + 1) for child in item)
    return texts


def expect_characters(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Unreadable("found half of a surrogate pair, expected whole characters") from None


def expect_short(number: int) -> None:
    if not -_LARGEST < number < _LARGEST:
        digits = int(number.bit_length() * math.log10(2)) + 1
        raise Unreadable(f"found a whole number of about {digits} digits, expected one of 64 bits at most")


def reject_constant(constant: str) -> None:
    raise Unreadable(f"found the constant {constant}, expected a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Unreadable(f"found {text[:40]}, expected a finite number")
    return value


def whole_number(text: str) -> int:
    if len(text) > 1000:  # Python itself refuses what is much longer, in words of its own
        raise Unreadable(f"found a whole number of {len(text)} digits, expected one of 64 bits at most")
    return int(text)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1) if len(names) < 1000 else "a key"
        raise Unreadable(f"found {twice[:60]!r} twice in one object")
    return found
