"""docs/config.md: the keys of a config, written from the models that check them."""

from pathlib import Path

from nncf_ext.nncf_config import json_schema
from nncf_ext.tools.config_reference import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "config.md"


def test_the_committed_page_is_that_of_the_code():
    assert PAGE.read_text(encoding="utf-8") == page(json_schema()), "run `make docs`"


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
