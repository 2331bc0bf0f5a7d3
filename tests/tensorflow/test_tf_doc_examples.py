"""The examples in docstrings, and the program of docs/getting-started-keras.md."""

import keras
import nncf_ext_tensorflow
import numpy as np
import pytest

import nncf_ext
from tests.doc_examples import examples_of, run, run_page

USING = {"NNCFConfig": nncf_ext.NNCFConfig, "np": np, "keras": keras}
EXAMPLES = examples_of(nncf_ext_tensorflow, nncf_ext_tensorflow.__all__, USING)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(example)


def test_what_has_examples():
    assert {example.name for example in EXAMPLES} >= {
        "create_compressed_model",
        "preview_compression",
        "load_state",
        "make_soup",
    }


@pytest.mark.slow
def test_getting_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run_page("getting-started-keras.md")
    assert told["before"] > 0.9 and told["after"] > 0.9
    assert (told["answers"].argmax(1) == told["labels"][:4]).all()
    assert (tmp_path / "checkpoint.safetensors").is_file()
