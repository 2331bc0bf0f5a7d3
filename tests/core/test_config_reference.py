"""What the documentation says of the code, written from it: the keys of a config, and the command line."""

import importlib.util
from pathlib import Path

import pytest

from nncf_ext.algorithms import ALGORITHMS
from nncf_ext.nncf_config import json_schema
from nncf_ext.tools import cli
from nncf_ext.tools.config_reference import keys, page

DOCS = Path(__file__).resolve().parents[2] / "docs"
spec = importlib.util.spec_from_file_location("docs_write", DOCS / "write.py")
assert spec is not None and spec.loader is not None
write = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write)
PAGES = dict(write.pages())
COMMANDS = ("validate", "schema", "demo", "plot", "compare", "pack", "unpack", "inspect", "soup")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_the_committed_pages_are_those_of_the_code(path):
    assert path.read_text(encoding="utf-8") == PAGES[path], "run `make docs`"


def test_every_algorithm_has_a_page_with_its_keys():
    schema = json_schema()
    for algorithm in ALGORITHMS:
        table = keys(schema, algorithm, "../config.md")
        assert table in (DOCS / "algorithms" / f"{algorithm}.md").read_text(encoding="utf-8")
    assert "| `params.target_bits` | number above 0, at most 12 |  |" in keys(schema, "ecsq", "../config.md")
    assert "[section](../config.md#precisioninit)" in keys(schema, "quantization", "../config.md")
    assert "SCOPE" not in keys(schema, "clip_q", "../config.md")


def test_a_page_without_marks_is_told():
    with pytest.raises(ValueError, match="ecsq.md: found no <!-- keys: ecsq -->"):
        write.with_keys("# ecsq", "ecsq", "")


def test_every_argument_of_every_command_is_on_the_page():
    text = PAGES[DOCS / "cli.md"]
    for name in COMMANDS:
        assert f"## {name}\n" in text and f"nncf-ext {name}" in text
    assert "nncf-ext soup RUN [RUN ...] [--method uniform|greedy|wise-ft] --output FILE" in text
    assert "| `--alpha ALPHA` | wise-ft: share of the second model (default: 0.5) |" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_commands_are_right(name):
    """Their arguments are taken; what they name need not be there."""
    example = PAGES[DOCS / "cli.md"].partition(f"## {name}\n")[2].partition("For example:\n\n```\n")[2].partition("\n```")[0]
    words = example.partition(" > ")[0].split()
    assert words[:2] == ["nncf-ext", name]
    cli.command_line().parse_args(words[1:])


def test_every_key_of_every_section_is_on_it():
    text = page(json_schema())
    for name, section in json_schema()["$defs"].items():
        for key in section.get("properties", {}).keys() - {"algorithm"}:
            assert f"`{key}`" in text or f".{key}`" in text, f"{name}.{key}"


def test_rows():
    """A section below a key, an array of them, and one that two algorithms share."""
    low = {
        "type": "object",
        "properties": {"bits": {"type": "integer", "minimum": 2, "maximum": 8, "default": 4, "description": "Bits."}},
    }
    one = {"algorithm": {"const": "one", "default": "one"}, "params": {"$ref": "#/$defs/Low", "description": "How\nmuch."}}
    own = {"properties": {"mode": {"enum": ["a", "b"], "default": "a"}}, "required": ["mode"]}
    two = {
        "algorithm": {"enum": ["two", "former"]},
        "params": {"$ref": "#/$defs/Low"},
        "layers": {"type": "array", "items": {"$ref": "#/$defs/Own"}},
        "by_scope": {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
    }
    sections = {"One": {"properties": one}, "Two": {"properties": two, "description": "Second.\n\nMore."}, "Low": low, "Own": own}
    text = page({"properties": {}, "$defs": sections})
    assert "| `params` | [section](#low) |  | How much. |" in text
    assert "### Low\n\n| key | value |" in text
    assert "| `bits` | whole number from 2 to 8 | `4` | Bits. |" in text
    assert "## `two`\n\nSecond.\n\nMore.\n" in text
    assert '| `layers[].mode` | `"a"`, `"b"` | required |  |' in text
    assert "| `by_scope` | object: scope to number above 0 |  |  |" in text
