"""Scopes: exact names, `{re}` patterns, NNCF 2.x's class names, and messages that help."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext import ConfigError
from nncf_ext.scopes import Inherited, considered, matches, select

NAMES = [
    "/nncf_model_input_0",
    "ResNet/Conv2d[conv1]/conv2d_0",
    "ResNet/Sequential[layer1]/BasicBlock[0]/Conv2d[conv1]/conv2d_0",
    "ResNet/Sequential[layer1]/BasicBlock[0]/__add___0",
    "ResNet/Sequential[layer2]/BasicBlock[0]/Conv2d[conv1]/conv2d_0",
    "ResNet/Linear[fc]/linear_0",
    "conv1^1",
]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("ResNet/Linear[fc]/linear_0", [5]),
        ("ResNet/NNCFLinear[fc]/linear_0", [5]),
        ("conv1^1", [6]),
        ("ResNet/Linear[fc]", []),
        ("conv1", []),
        ("ResNet/Linear.fc./linear_0", []),
        ("{re}conv1", [1, 2, 4, 6]),
        ("con{re}v1", [1, 2, 4, 6]),
        ("conv1{re}", [1, 2, 4, 6]),
        ("{re}^ResNet/Conv2d", [1]),
        (r"{re}layer[12]\].*Conv2d", [2, 4]),
        (r"{re}NNCFConv2d\[conv1\]/conv2d_0$", [1, 2, 4]),
        (r"{re}layer1.*/NNCF(Conv2d|Linear)\[", [2]),
        ("{re}NNCF.*fc", [5]),
        (r"{re}/NNCF.*\[fc\]", [5]),
        ("{re}", list(range(7))),
        ("{re}__add__", [3]),
    ],
)
def test_matches(pattern, matched):
    assert [name for name in NAMES if matches(name, [pattern])] == [NAMES[i] for i in matched]


def test_a_user_class_called_nncf_keeps_its_name():
    assert matches("NNCFNet/Conv2d[a]/conv2d_0", ["NNCFNet/Conv2d[a]/conv2d_0"])
    assert matches("NNCFNet/Conv2d[a]/conv2d_0", ["{re}^NNCFNet/NNCF"]) is False
    assert matches("MyNNCFNet/Linear[a]/linear_0", ["MyNNCFNet/Linear[a]/linear_0"])


def test_functions_that_layers_call_in_place():
    for scope in ("Net/ReLU[relu]/relu__0", "{re}relu__0$", r"{re}relu__\d"):
        assert matches("Net/ReLU[relu]/relu_0", [scope])
        assert not matches("Net/ReLU[relu]/relu_10", ["Net/ReLU[relu]/relu__0"])
    assert matches("Net/__iadd___0", ["Net/__iadd___0"])
    assert not matches("Net/__iadd__0", ["Net/__iadd___0"])


def test_considered():
    assert considered("a")
    assert considered("a", target=["a"])
    assert not considered("a", target=[])
    assert not considered("a", ignored=["a"], target=["a"])
    assert not considered("a", ignored=["{re}."])


def test_select_keeps_the_order():
    assert select(NAMES, ["{re}layer2"], ["{re}conv2d"]) == [NAMES[1], NAMES[2]]
    assert select(NAMES) == NAMES
    assert select(NAMES, target=[]) == []


@pytest.mark.parametrize(
    ("ignored", "target", "message"),
    [
        (
            ["ResNet/Linear[fc]/linear_1"],
            None,
            'compression[0].ignored_scopes: "ResNet/Linear[fc]/linear_1" matches no node; '
            'the nearest node is "ResNet/Linear[fc]/linear_0"',
        ),
        (
            ["{re}conv2d", r"{re}ResNet/NNCFLinaer\[fc\]/linear"],
            None,
            r'compression[0].ignored_scopes: "{re}ResNet/NNCFLinaer\\[fc\\]/linear" matches no node; '
            'the nearest node is "ResNet/Linear[fc]/linear_0"',
        ),
        (
            [],
            ["ResNet/Sequential[layer1]"],
            'compression[0].target_scopes: "ResNet/Sequential[layer1]" matches no node exactly; '
            r'"{re}ResNet/Sequential\\[layer1\\]" would match the 2 with that in their names',
        ),
        ([Inherited("nothing like it")], None, 'ignored_scopes: "nothing like it" matches no node; names are like "'),
        (["{re}("], None, 'compression[0].ignored_scopes: "{re}(" is no regular expression'),
    ],
)
def test_a_scope_that_matches_nothing(ignored, target, message):
    with pytest.raises(ConfigError) as caught:
        select(NAMES, ignored, target, json_path="compression[0]")
    assert str(caught.value).startswith(message)


def test_validation_can_be_switched_off():
    assert select(NAMES, ["nothing"], validate=False) == NAMES
    assert select(NAMES, [], ["nothing"], validate=False) == []
    with pytest.raises(ConfigError, match="no regular expression"):
        select(NAMES, ["{re}("], validate=False)


def test_no_nodes_at_all():
    with pytest.raises(ConfigError, match="matches no node"):
        select([], ["a"])


scopes = st.lists(
    st.one_of(st.sampled_from(NAMES), st.sampled_from(["{re}conv1", "{re}layer1", "{re}ResNet", "{re}$"])), max_size=3
)


@given(scopes, st.none() | scopes)
def test_select_is_considered_for_each_name(ignored, target):
    assert select(NAMES, ignored, target) == [name for name in NAMES if considered(name, ignored, target)]


@given(st.text(min_size=1))
def test_an_escaped_name_matches_itself(name):
    assert matches(name, ["{re}" + re.escape(name)]) or "{re}" in re.escape(name)
    assert matches(name, [name]) or "{re}" in name


@given(st.text(), st.lists(st.text(), max_size=3))
def test_arbitrary_text_is_selected_or_refused_in_one_line(pattern, names):
    try:
        assert set(select(names, [pattern])) <= set(names)
    except ConfigError as error:
        assert str(error).startswith("ignored_scopes: ")
