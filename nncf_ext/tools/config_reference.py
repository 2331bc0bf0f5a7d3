"""The keys of a config as tables for the documentation, from the same models that check them. `make docs` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

_COLUMNS = ("key", "value", "default", "what it does")
_OF_ALL = ("ignored_scopes", "target_scopes", "validate_scopes")

_INTRODUCTION = """\
# The keys of a config

A config is a JSON file; comments and trailing commas are allowed. `nncf-ext validate FILE.json` checks one, and
`nncf-ext schema` prints the JSON Schema that an editor completes keys with. Whatever is not on this page is an error that names
the nearest key. Configs to start from are in the folder `configs`.

This page is written from the code by `make docs`. What an algorithm does, and when to take it: [algorithms](algorithms/index.md).
"""


def page(schema: Schema) -> str:
    """Markdown of a config's schema (`json_schema`): a table of keys for the top level, for each algorithm, and for each section
    that several algorithms have."""
    sections: Mapping[str, Schema] = schema["$defs"]
    algorithms, shared = _named(sections)
    of_all = {key: value for key, value in sections[next(iter(algorithms.values()))]["properties"].items() if key in _OF_ALL}
    top = {key: value for key, value in schema["properties"].items() if key != "compression"}
    lines = [_INTRODUCTION, "## The top level", ""]
    lines += ["The algorithms are the entries of `compression`: an object, or an array of them, each algorithm at most once.", ""]
    lines += [*_table(_COLUMNS, _rows(top, (), "", sections, shared)), ""]
    lines += ["## Keys of every algorithm that compresses", "", *_table(_COLUMNS, _rows(of_all, (), "", sections, shared)), ""]
    for algorithm, name in algorithms.items():
        lines += [f"## `{algorithm}`", "", *_said(sections[name]), *_table(_COLUMNS, _rows_of(name, "", sections, shared)), ""]
    lines += ["## Sections that several have", ""]
    for name in sorted(shared):
        lines += [f"### {name}", "", *_said(sections[name]), *_table(_COLUMNS, _rows_of(name, "", sections, shared)), ""]
    return "\n".join(lines).rstrip() + "\n"


def keys(schema: Schema, algorithm: str, page: str) -> str:
    """Markdown: an algorithm's keys with values and defaults, without those that hold for single scopes. page: the address of
    the page, which says what they do and has the sections that several algorithms share."""
    sections: Mapping[str, Schema] = schema["$defs"]
    algorithms, shared = _named(sections)
    rows = [
        row[:3]
        for row in _rows_of(algorithms[algorithm], "", sections, shared)
        if row[1] != "section" and ".SCOPE." not in row[0]
    ]
    table = "\n".join(_table(_COLUMNS[:3], rows)).replace("](#", f"]({page}#")
    return table if rows else "It has none of its own."


def _named(sections: Mapping[str, Schema]) -> tuple[dict[str, str], set[str]]:
    """The sections of the algorithms, by the algorithms' names, and the sections that several of them have."""
    algorithms = {name: section for section in sections if (name := _algorithm(sections[section])) is not None}
    used = [set(_reached(section, sections)) for section in algorithms.values()]
    return algorithms, {name for name in sections if sum(name in names for names in used) > 1}


def _algorithm(section: Schema) -> str | None:
    named = section.get("properties", {}).get("algorithm")
    if named is None:
        return None
    return named.get("default") or named.get("const") or named["enum"][0]


def _said(section: Schema) -> list[str]:
    paragraphs = str(section.get("description", "")).split("\n\n")
    return [line for paragraph in paragraphs if paragraph for line in (_one_line(paragraph), "")]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def _rows_of(name: str, path: str, sections: Mapping[str, Schema], shared: set[str]) -> Iterator[tuple[str, str, str, str]]:
    section = sections[name]
    keys = {key: value for key, value in section.get("properties", {}).items() if key not in ("algorithm", *_OF_ALL)}
    return _rows(keys, section.get("required", ()), path, sections, shared)


def _rows(
    keys: Mapping[str, Schema], required: Any, path: str, sections: Mapping[str, Schema], shared: set[str]
) -> Iterator[tuple[str, str, str, str]]:
    for key, value in keys.items():
        places = list({name: (place, name) for place, name in reversed([*_places(value)])}.values())
        values = _values(value, shared)
        default = "required" if key in required else "" if places or value.get("default") is None else _shown(value["default"])
        yield f"`{path}{key}`", values, default, _one_line(value.get("description", ""))
        for place, section in places:
            if section not in shared:
                yield from _rows_of(section, f"{path}{key}{place}.", sections, shared)


def _places(value: Schema) -> Iterator[tuple[str, str]]:
    """Sections below a key: how the path goes on, and their names."""
    if "$ref" in value:
        yield "", _name(value)
    for option in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _places(option)
    if isinstance(value.get("items"), Mapping):
        yield from (("[]" + place, name) for place, name in _places(value["items"]))
    if isinstance(value.get("additionalProperties"), Mapping):
        yield from ((".SCOPE" + place, name) for place, name in _places(value["additionalProperties"]))


def _reached(name: str, sections: Mapping[str, Schema]) -> Iterator[str]:
    for value in sections[name].get("properties", {}).values():
        for _, below in _places(value):
            yield below
            yield from _reached(below, sections)


def _name(value: Schema) -> str:
    return value["$ref"].rpartition("/")[2]


def _values(value: Schema, shared: set[str]) -> str:
    """What a key may be, in words."""
    if "$ref" in value:
        name = _name(value)
        return f"[section](#{name.lower()})" if name in shared else "section"
    options = [*value.get("anyOf", ()), *value.get("oneOf", ())]
    if options:
        kinds = dict.fromkeys(_values(option, shared) for option in options if option.get("type") != "null")
        return " or ".join(kinds)
    if "enum" in value:
        return ", ".join(_shown(item) for item in value["enum"])
    if "const" in value:
        return _shown(value["const"])
    kind = value.get("type")
    if kind == "array":
        items = value.get("items")
        return f"array of {_values(items, shared)}" if isinstance(items, Mapping) and items else "array"
    if kind == "object":
        below = value.get("additionalProperties")
        return f"object: scope to {_values(below, shared)}" if isinstance(below, Mapping) else "object"
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(value)
    return {"boolean": "true, false", "string": "text"}.get(str(kind), "anything")


def _bounds(value: Schema) -> str:
    least, most = value.get("minimum"), value.get("maximum")
    above, below = value.get("exclusiveMinimum"), value.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    said = [
        f"{words} {bound:g}"
        for words, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if bound is not None
    ]
    return (" " + ", ".join(said)) if said else ""


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if value not in ([], {}) else ""


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
