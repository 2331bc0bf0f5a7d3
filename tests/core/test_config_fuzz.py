"""Mutated configs either load or raise a ConfigError of one line; nothing else."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.config.loader import loads

pytestmark = pytest.mark.filterwarnings("ignore:config.*:UserWarning")  # of keys that change nothing

TEXTS = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[2] / "configs").glob("*.json"))]
CONTENTS = [loads(text) for text in TEXTS]

KEYS = [
    "algorithm",
    "compression",
    "bits",
    "initializer",
    "range",
    "type",
    "params",
    "ignored_scopes",
    "target_scopes",
    "scope_overrides",
    "weights",
    "input_info",
    "sample_size",
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["quantization", "magnitude_sparsity", "knowledge_distillation", "rb_sparsity", "{re}(", "mse", "min_max"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """Paths of everything inside `value`."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


@st.composite
def mutated(draw):
    content = deepcopy(draw(st.sampled_from(CONTENTS)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        if not path:
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del parent[path[-1]]
        elif action == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(KEYS) | st.text(max_size=3))] = draw(values)
        else:
            parent[path[-1]] = draw(values)
    return content


def loads_or_says_why(read, content):
    try:
        config = read(content)
    except ConfigError as error:
        assert ": " in str(error)
        return
    config.algorithms()
    config.input_infos()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_content(content):
    loads_or_says_why(NNCFConfig.from_dict, content)


@settings(max_examples=100, deadline=None)
@given(values)
def test_anything_at_all(content):
    loads_or_says_why(NNCFConfig.from_dict, content)
    loads_or_says_why(NNCFConfig.from_dict, {"compression": content})
    loads_or_says_why(NNCFConfig.from_dict, {"input_info": content, "ignored_scopes": content, "target_device": content})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TEXTS), st.data())
def test_mutated_text(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 5, len(text))))
    inserted = data.draw(st.text(alphabet='{}[],:"\\/*#\n 0e-{re}', max_size=4))
    try:
        loads(text[:start] + inserted + text[end:])
    except ConfigError as error:
        assert "<config>" in str(error)


@settings(max_examples=100, deadline=None)
@given(values, st.sampled_from([None, 1, "\t"]))
def test_plain_json_reads_as_it_is(content, indent):
    try:
        text = json.dumps(content, allow_nan=False, indent=indent)
    except ValueError:
        return
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize("content", CONTENTS)
def test_valid_contents_load(content):
    assert NNCFConfig.from_dict(content) == content
