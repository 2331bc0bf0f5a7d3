"""The examples in the docstrings of what needs no framework."""

import numpy as np
import pytest

import nncf_ext
import nncf_ext.packed
from tests.doc_examples import examples_of, run

EXAMPLES = [
    *examples_of(nncf_ext, ["NNCFConfig"], {}),
    *examples_of(nncf_ext.packed, nncf_ext.packed.__all__, {"np": np}),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(example)


def test_what_has_examples():
    assert {example.name for example in EXAMPLES} >= {"NNCFConfig", "pack_arrays", "load"}
