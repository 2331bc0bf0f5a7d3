"""Tables in a terminal of 80 columns: names of layers that can be told from each other."""

import io
import re

import pytest
from rich.console import Console

from nncf_ext.text_table import TextTable

DEEP = [
    f"ResidualNetwork/Sequential[stage{stage}]/BasicBlock[{block}]/Conv2d[conv{i}]/conv2d_0"
    for stage in (1, 2, 3)
    for block in (0, 1)
    for i in (1, 2)
]


def printed(table: TextTable, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def column(lines: list[str], index: int) -> list[str]:
    """The texts of a column of a table with lines between its rows, each with its lines put together."""
    cells = [""]
    for line in lines:
        if line.startswith("├"):
            cells.append("")
        elif line.startswith("│"):
            cells[-1] += line.split("│")[index + 1].strip()
    return cells


@pytest.mark.parametrize("width", [80, 60, 40])
def test_every_layer_of_a_deep_model_has_a_name_of_its_own(width):
    rows = [(name, "weight", "quantizer", "bits 8, symmetric, signed, narrow, half", "0.0% zeros of 36,864") for name in DEEP]
    lines = printed(TextTable("", rows, ("layer", "tensor", "transform", "settings", "values"), lines=True), width)
    assert all(len(line) <= width for line in lines)
    names = column(lines, 0)
    assert len(set(names)) == len(DEEP)
    for shown, name in zip(names, DEEP, strict=True):
        assert name.endswith(shown.removeprefix("…/"))


def test_a_name_that_fits_is_whole():
    rows = [(name, "0.5000") for name in DEEP]
    assert all(any(name in line for line in printed(TextTable("", rows), 90)) for name in DEEP)


def test_a_name_loses_its_beginning_where_its_end_tells_it_from_the_others():
    rows = [("ResidualNetwork/Sequential[features]/Conv2d[0]/conv2d_0", "x" * 50), ("ResidualNetwork/linear_0", "y")]
    lines = printed(TextTable("", rows))
    assert any("│ …/Conv2d[0]/conv2d_0" in line for line in lines)
    assert any("│ …/linear_0 " in line or "│ ResidualNetwork/linear_0" in line for line in lines)


def test_a_name_is_broken_between_its_parts():
    lines = printed(TextTable("", [(name, "word " * 20) for name in DEEP]), 56)
    broken = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert "…/Sequential[stage1]/" in broken and "BasicBlock[0]/" in broken and "Conv2d[conv1]/conv2d_0" in broken


def test_names_in_sentences_are_shortened_too():
    text = f"is coupled with {DEEP[0]}, which has a stride"
    lines = printed(TextTable("", [(name, text) for name in DEEP]))
    told = " ".join(line.split("│")[2].strip() for line in lines if line.startswith("│"))
    assert re.search(
        r"is coupled with …/Sequential\[stage1\]/ ?BasicBlock\[0\]/ ?Conv2d\[conv1\]/conv2d_0, which has a stride", told
    )


def test_names_with_dots_and_a_total():
    rows = [
        (f"stage{i}.0.bn1.running_mean", "F32", "64 x 64 x 3 x 3", "scaled, zlib", "100.0%", "8.963", "36,864") for i in range(3)
    ]
    table = TextTable(
        "model.ncp",
        rows,
        ("tensor", "type", "shape", "codec", "zeros", "bits per element", "bytes"),
        total=("file", *rows[0][1:]),
    )
    lines = printed(table, 72)
    assert lines[0] == "model.ncp" and all(len(line) <= 72 for line in lines)
    assert [line.split("│")[1].strip()[:6] for line in lines if "F32" in line] == ["stage0", "stage1", "stage2", "file"]


def test_narrower_than_a_table_can_be():
    assert printed(TextTable("", [DEEP[:4]]), 20)
