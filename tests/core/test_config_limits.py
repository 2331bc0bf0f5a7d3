"""Configs that are large, deep, circular or made to take long: one sentence, soon."""

import json

import pytest

from nncf_ext import ConfigError, NNCFConfig, scopes
from nncf_ext.config import loader
from nncf_ext.nncf_config import validate_file
from nncf_ext.scopes import compile_scope, matched_by


def quantization(**keys):
    return {"compression": {"algorithm": "quantization", **keys}}


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def circular():
    content = quantization()
    content["compression"]["weights"] = [content]
    return content


def shared():
    """Few objects, and 2^40 ways through them."""
    value = [1, 1]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (quantization(ignored_scopes="{re}a{99999999999}"), "repeats more than 10,000 times"),
        (quantization(ignored_scopes="{re}(?:(?:x{1000}){1000}){1000}"), "repeats more than 10,000 times"),
        (quantization(ignored_scopes="{re}" + "(" * 3000 + "a" + ")" * 3000), "is no regular expression"),
        (quantization(ignored_scopes=["{re}" + "a" * 19_000] * 2), "found 38,008 characters of regular expressions"),
        ({"input_info": nested(1100)}, "nested more than 64 deep"),
        ({"mine": nested(1100), **quantization()}, "nested more than 64 deep"),
        (quantization(weights={"bits": 10**5000}), "a whole number of about 5001 digits"),
        ({"mine": -(10**5000), **quantization()}, "a whole number of about 5001 digits"),
        (circular(), "an object inside of itself"),
        ({"mine": shared()}, "more than 100,000 values"),
        ({"mine": ["\ud800"]}, "half of a surrogate pair"),
        ({"mine": {"\ud800": 1}}, "half of a surrogate pair"),
        ({"compression": {"algorithm": "quantization", 5: 1}}, "unknown key"),
        ({"compression": {"algorithm": "quantization", None: 1}}, "unknown key"),
        ({"compression": {"algorithm": "quantization", "k" * 100_000: 1}}, "unknown key"),
    ],
)
def test_python_data(content, message):
    with pytest.raises(ConfigError, match=message) as error:
        NNCFConfig.from_dict(content)
    assert len(str(error.value)) < 1000


MEGABYTES = [
    "/* " * 350_000,
    "{" + '"\\' * 500_000,
    "[" + "1" * 1_000_000,
    "[" * 1_000_000,
    '{"a":' * 200_000,
    "[]," * 350_000,
    '"' * 1_000_000,
    "//" * 500_000,
    "," * 1_000_000,
    "'" * 1_000_000,
    '{"compression": "' + "a" * 1_000_000,
    "{" + '"a": 1e999999, ' * 60_000,
    '{"compression": [' + '{"algorithm": "quantization"}, ' * 30_000 + "]}",
    '{"compression": {"algorithm": "quantization", "ignored_scopes": [' + '"{re}a", ' * 90_000 + "]}}",
    '{"compression": {"algorithm": "' + "q" * 1_000_000 + '"}}',
    "{" + ", ".join(f'"k{i}": ' + "{}" for i in range(90_000)) + ', "compression": 1}',
    '{"input_info": [' + '{"sample_size": ["a"]},' * 25_000 + "]}",
]


@pytest.mark.parametrize("text", MEGABYTES, ids=range(len(MEGABYTES)))
def test_a_megabyte_is_refused_without_quadratic_time(tmp_path, text):
    """What took quadratic time would take hours here."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        NNCFConfig.from_json(path)
    assert len(str(error.value)) < 1000 + len(str(path))


def test_a_mistake_in_a_long_line_is_pointed_at():
    with pytest.raises(ConfigError) as error:
        loader.loads('{"a": "' + "x" * 1000 + '", b: 1}')
    message, line, mark = str(error.value).split("\n")
    assert message == "<config>:1:1011: not JSON: expecting property name enclosed in double quotes"
    assert line[mark.index("^")] == "b" and len(line) < 140


def test_a_comment_without_end():
    with pytest.raises(ConfigError, match=r"<config>:2:3: not JSON: expecting property name"):
        loader.loads('{\n  /* "a": 1}')
    assert loader.loads('{"a": "/* no comment", /* one */ "b": "\\"//"}') == {"a": "/* no comment", "b": '"//'}


def test_what_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="found a device or a pipe, expected a file"):
        NNCFConfig.from_json("/dev/zero")
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ConfigError, match="found 17,825,792 bytes, expected 16,777,216 at most"):
        NNCFConfig.from_json(path)


def test_many_keys_of_the_script(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({f"key{i}": i for i in range(1000)} | {"x" * 500: 1}))
    lines = validate_file(path).split("\n")
    assert lines[-1] == "  951 more keys: left to the training script" and max(map(len, lines[1:])) < 200


def test_a_regular_expression_that_takes_exponential_time(monkeypatch):
    monkeypatch.setattr(scopes, "_SECONDS", 0.05)
    with pytest.raises(ConfigError, match='takes more than 0.05 s to search in the name "a+!"'):
        matched_by("{re}^(a|aa|b?a)+$", ["a" * 60 + "!"], "ignored_scopes")


def test_braces_mean_what_they_mean_in_re():
    assert compile_scope("{re}conv{e}$")("x/conv{e}") and not compile_scope("{re}(?:conv){e}$")("x/conw")
    assert compile_scope(r"{re}^a{2,3}\{b")("aaa{b") and not compile_scope("{re}^a{2}$")("a{2}")
