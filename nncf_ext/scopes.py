"""Which nodes of a graph an algorithm considers: `ignored_scopes` and `target_scopes` of NNCF 2.x.

A scope is the exact name of a node, or, with the marker `{re}` anywhere in it, a regular expression that is searched in the name.
NNCF 2.x put "NNCF" before the class names of wrapped layers (`NNCFConv2d[conv1]`), and an underscore behind the names of
functions that layers call in place (`ReLU[relu]/relu__0`); its TensorFlow backend numbered the calls of a shared layer from
`conv^0` on. Our names have none of these, so scopes are also tried without.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any

from nncf_ext.errors import ConfigError, nearest

MARKER = "{re}"
_WRAPPED_CLASS = re.compile(r"(?<!\w)NNCF(?=[A-Z(.\[\\])")
_IN_PLACE = re.compile(r"(?<=[A-Za-z0-9])__(?=\d|\\d)")
_FIRST_CALL = re.compile(r"\^0(?=/|$)")
_REPETITION = re.compile(r"[{,](\d{1,9})\d*(?=[,}])")
_BRACE = re.compile(r"(\\.)|\{(?!\d+(?:,\d*)?\}|,\d*\})", re.DOTALL)  # that begins no repetition
LONGEST = 20_000  # characters of regular expressions, of one and of all in a config
_MOST_REPEATED, _SECONDS = 10_000, 1.0
_FIRST_CALL_PATTERN = re.compile(r"\\\^0(?!\d)")  # as it stands in a regular expression


class Inherited(str):
    """A scope that stands at the top level of the config and holds for every algorithm in it."""


def unwrapped(name: str) -> str:
    """A name of NNCF 2.x, or a pattern for one, as nodes are named here."""
    return _WRAPPED_CLASS.sub("", name)


@lru_cache(maxsize=1024)
def compile_scope(pattern: str) -> Callable[[str], bool]:
    """The test that `pattern` puts to a node name. `re.error` for an invalid regular expression; ConfigError from the test where
    a search takes so long that it is exponential."""
    plain = unwrapped(pattern)
    forms = {pattern, plain, _IN_PLACE.sub("_", plain)}
    if MARKER not in pattern:
        return {*forms, _FIRST_CALL.sub("", plain)}.__contains__
    forms.add(_FIRST_CALL_PATTERN.sub("(?=/|$)", plain))
    check_regular_expression(pattern)
    searches = [_compiled(form.replace(MARKER, "")).search for form in forms]

    def test(name: str) -> bool:
        try:
            return any(search(name, timeout=_SECONDS) for search in searches)
        except TimeoutError:
            raise ConfigError(
                f"{_quoted(pattern)} takes more than {_SECONDS} s to search in the name {_quoted(name[:100])}: expected an "
                "expression without repetitions inside of each other"
            ) from None

    return test


def check_regular_expression(pattern: str) -> None:
    """`re.error` for a scope that is no regular expression of Python's `re`, or asks for very much memory."""
    plain = pattern.replace(MARKER, "")
    if len(plain) > LONGEST:
        raise re.error(f"found {len(plain):,} characters, expected {LONGEST:,} at most")
    if math.prod(max(int(number), 1) for number in _REPETITION.findall(plain)) > _MOST_REPEATED:
        raise re.error(f"it repeats more than {_MOST_REPEATED:,} times, expected fewer")
    try:
        re.compile(plain)
    except (OverflowError, RecursionError, MemoryError, ValueError) as error:
        raise re.error(str(error)) from None


def _compiled(expression: str) -> Any:
    """By `regex`, which is `re` with a limit of time. A brace that begins no repetition is a character to `re`."""
    import regex  # a tenth of a second to load

    try:
        return regex.compile(_BRACE.sub(lambda found: found[1] or r"\{", expression))
    except (regex.error, RecursionError, MemoryError) as error:
        raise re.error(str(error)) from None


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether any of `patterns` is about the node `name`."""
    return any(compile_scope(pattern)(name) for pattern in patterns)


def considered(name: str, ignored: Iterable[str] = (), target: Iterable[str] | None = None) -> bool:
    """Whether an algorithm looks at the node `name`: in `target` (None: every node is) and not in `ignored`."""
    return (target is None or matches(name, target)) and not matches(name, ignored)


def select(
    names: Collection[str],
    ignored: Iterable[str] = (),
    target: Iterable[str] | None = None,
    validate: bool = True,
    json_path: str = "",
) -> list[str]:
    """Those of `names` that are considered, in their order.

    validate: ConfigError for a scope that matches none of `names`. where: JSON path of the section that the scopes stand in.
    """
    kept = list(names)
    for key, patterns in (("ignored_scopes", ignored), ("target_scopes", target)):
        if patterns is None:
            continue
        matched: set[str] = set()
        for pattern in patterns:
            path = f"{json_path}.{key}" if json_path and not isinstance(pattern, Inherited) else key
            matched |= matched_by(pattern, names, path, validate)
        kept = [name for name in kept if (name in matched) == (key == "target_scopes")]
    return kept


def matched_by(pattern: str, names: Collection[str], path: str, validate: bool = True, what: str = "node") -> set[str]:
    """Those of `names` that `pattern` is about. ConfigError at the JSON path `path` where it is about none and `validate` is set.

    what: what the names are names of.
    """
    try:
        test = compile_scope(pattern)
    except re.error as error:
        raise ConfigError(f"{path}: {_quoted(pattern)} is no regular expression: {error}") from None
    hits = {name for name in names if test(name)}
    if validate and not hits:
        raise ConfigError(f"{path}: {_quoted(pattern)} matches no {what}{_advice(pattern, names, what)}")
    return hits


def _advice(pattern: str, names: Collection[str], what: str) -> str:
    plain = unwrapped(pattern).replace(MARKER, "")
    below = sum(plain in name for name in names)
    if MARKER not in pattern and below:
        return f" exactly; {_quoted(MARKER + re.escape(plain))} would match the {below} with that in their names"
    text = re.sub(r"\\(.)", r"\1", plain)
    close = nearest(text, names) or _with_part_like(text, names)
    if close:
        return f"; the nearest {what} is {_quoted(close)}"
    some = list(names)[:: max(1, len(names) // 3)][-3:]  # from all over: the first ones are inputs
    return f"; names are like {', '.join(map(_quoted, some))}" if some else f": there is no {what}"


def _with_part_like(text: str, names: Collection[str]) -> str | None:
    """The first name with a part (between slashes and brackets) like `text`."""
    parts = {part: name for name in reversed(list(names)) for part in re.split(r"[/\[\]]+", name) if part}
    close = nearest(text, parts)
    return parts[close] if close else None


def _quoted(text: str) -> str:
    """As it is to be written in a config."""
    return json.dumps(text, ensure_ascii=False)
