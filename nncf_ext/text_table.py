"""Tables for people, legible in a terminal of 80 columns. Names of layers are paths, which differ at their ends: where one is
wider than its column it loses its beginning, but never what tells it from the table's others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_PARTS = re.compile(r"[^/.]*[/.]?")
_ENDS = re.compile(r"[/.]")
_PUNCTUATION = ",;:."
_CUT = "…/"
_LONGEST_PART = 26  # of a path; a column need not be wider for its sake
_FRAME = 3  # what a column takes besides its text


@dataclass(frozen=True)
class TextTable:
    """rows: of as many texts as there are columns, each of one line or several. header: the columns' names, if they have some.
    lines: whether there are lines between the rows. total: a last row, below a line.
    """

    title: str
    rows: Sequence[Sequence[str]]
    header: Sequence[str] | None = None
    lines: bool = False
    total: Sequence[str] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [*self.rows, *([] if self.total is None else [self.total])]
        columns = list(zip(*([] if self.header is None else [self.header]), *rows, strict=True))
        widths = _widths(columns, options.max_width - _FRAME * len(columns) - 1)
        tails = _tails_in(rows)
        table = Table(title=self.title or None, title_justify="left", show_header=self.header is not None, show_lines=self.lines)
        for name, width in zip(self.header or [""] * len(columns), widths, strict=True):
            table.add_column(name, width=width, overflow="fold")
        for row in rows:
            if row is self.total:
                table.add_section()
            texts = (_fitted(text, width, tails) for text, width in zip(row, widths, strict=True))
            table.add_row(*(Text(text, overflow="fold") for text in texts))
        yield table


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """As wide as their longest lines; together no wider than `room`, at the cost of the widest, whose words last of all."""
    widths = [max((len(line) for text in column for line in text.splitlines()), default=0) for column in columns]
    words = [max((_unbroken(word) for text in column for word in text.split()), default=0) for column in columns]
    for least in (words, [1] * len(columns)):
        while sum(widths) > room and widths != least:
            widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
            if widths[widest] <= least[widest]:
                break
            widths[widest] -= 1
    return widths


def _unbroken(word: str) -> int:
    """The width that a word needs: a path may be broken between its parts."""
    if "/" not in word:
        return len(word) if word.count(".") < 2 else min(len(word), _LONGEST_PART // 2)
    return min(len(word), len(_CUT) + max(map(len, _PARTS.findall(word))), _LONGEST_PART)


def _fitted(text: str, width: int, tails: Counter[str]) -> str:
    """The text with breaks in those words that are wider than `width`; between words it is broken elsewhere."""
    shown = ""
    for line in text.splitlines():
        for word in line.split(" ") if len(line) > width else [line]:
            begun = shown and not shown.endswith("\n")
            if len(word) > width:
                shown += ("\n" if begun else "") + "\n".join(_folded(word, width, tails))
            else:
                shown += (" " if begun else "") + word
        shown += "\n"
    return shown.removesuffix("\n")


def _folded(word: str, width: int, tails: Counter[str]) -> Iterator[str]:
    """The longest tail of a name that fits, as one line; the shortest that no other name has, in several, where none does."""
    name = word.rstrip(_PUNCTUATION)
    rest = word[len(name) :]
    telling = [tail for tail in _tails(name) if tails[tail] <= 1] or [name]  # the longest first
    cut = [f"{_CUT}{tail}{rest}" for tail in telling if tail != name] or [word]
    shown = next((tail for tail in cut if len(tail) <= width), cut[-1])
    line = ""
    for piece in (part[at : at + width] for part in _PARTS.findall(shown) for at in range(0, len(part), width)):
        if line and len(line) + len(piece) > width:
            yield line
            line = ""
        line += piece
    yield line


def _tails_in(rows: Sequence[Sequence[str]]) -> Counter[str]:
    """Of all different names in these rows, how many have each ending."""
    names = {word.rstrip(_PUNCTUATION) for row in rows for text in row for word in text.split()}
    return Counter(tail for name in names for tail in _tails(name))


def _tails(name: str) -> list[str]:
    """The name, and what is left of it without its first parts."""
    return [name, *(name[found.end() :] for found in _ENDS.finditer(name) if found.end() < len(name))]
