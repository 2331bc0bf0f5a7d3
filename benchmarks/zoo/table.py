"""docs/zoo.md: what is known of the zoo as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest import ROOT, write_section
from benchmarks.zoo.row import COLUMNS

DOCUMENT = ROOT / "docs" / "zoo.md"
HEADS = {
    "attach": "attach",
    "train": "two steps",
    "resume": "save, resume",
    "strip": "strip",
    "export": "export",
    "parity": "parity",
    "integer": "integer",
    "filters": "int8 + filters",
    "rigl": "RigL",
    "distil": "distillation",
}
_KINDS = ("wrong", "crash", "refused")


def kind(row: Mapping[str, Any]) -> str:
    """The worst that happened in a row: "wrong", "crash", "refused", or "green"."""
    found = {cell.partition(":")[0] for cell in row["cells"].values()}
    return next((kind for kind in _KINDS if kind in found), "green")


def _cell(column: str, row: Mapping[str, Any]) -> str:
    said = row["cells"].get(column, "")
    if said != "ok":
        return {"refused": "refused", "crash": "**crash**", "wrong": "**wrong**"}.get(said.partition(":")[0], "")
    if column == "attach":
        return f"{row['attach s']:.1f} s"
    if column == "parity":
        return f"{row['lsb']:.2f} LSB"
    if column == "integer":
        return "" if row["integer"] is None else f"{100 * row['integer']:.0f} %"
    if column == "filters":
        return f"{100 * row['weights left']:.0f} % left"
    return "ok"


def family_section(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """names: of the whole family."""
    lines = ["| model | weights | " + " | ".join(HEADS.values()) + " |", "|---|--:|" + ":-:|" * len(HEADS)]
    for name, row in rows.items():
        cells = [_cell(column, row) for column in COLUMNS]
        lines.append(f"| {name} | {row.get('weights', 0) / 1e6:.2f} M | " + " | ".join(cells) + " |")
    notes = [
        f"- {name}, {HEADS[column]}: {said.replace('|', chr(92) + '|')}"
        + (f" (the float model: {row['float export']})" if said.startswith("crash") and "float export" in row else "")
        for name, row in rows.items()
        for column, said in row["cells"].items()
        if said not in ("ok", "not reached")
    ]
    missing = [name for name in names if name not in rows]
    told = [f"Not measured, {len(missing)} of {len(names)}: {', '.join(missing)}."] if missing else []
    return "\n".join([*lines, "", *notes, *([""] if notes and told else []), *told])


def summary(families: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    lines = ["| family | rows | all green | refused in a sentence | crash | silently wrong |", "|---|--:|--:|--:|--:|--:|"]
    for family, rows in families.items():
        kinds = [kind(row) for row in rows.values()]
        green = kinds.count("green")
        share = f"{green} ({100 * green / len(kinds):.0f} %)" if kinds else "0"
        counts = [str(kinds.count(k)) for k in ("refused", "crash", "wrong")]
        lines.append(f"| {family} | {len(kinds)} | {share} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def write_document(families: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Mapping[str, Sequence[str]]) -> None:
    """Families of which nothing is known here, as they were measured elsewhere, keep what the document says of them."""
    before = {line.split(" | ")[0]: line for line in DOCUMENT.read_text(encoding="utf-8").splitlines()}
    lines = summary(families).splitlines()
    unknown = {f"| {family}" for family, rows in families.items() if not rows}
    kept = [before.get(name, line) if (name := line.split(" | ")[0]) in unknown else line for line in lines]
    write_section("summary", "\n".join(kept), DOCUMENT)
    for family, rows in families.items():
        if rows:
            write_section(family, family_section(rows, names.get(family, ())), DOCUMENT)
