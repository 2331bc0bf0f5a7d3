"""The examples in docstrings, and the program of docs/getting-started-pytorch.md."""

import nncf_ext_torch
import numpy as np
import pytest
import torch

import nncf_ext
from tests.doc_examples import examples_of, run, run_page

EXAMPLES = examples_of(nncf_ext_torch, nncf_ext_torch.__all__, {"NNCFConfig": nncf_ext.NNCFConfig, "np": np, "torch": torch})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(example)


def test_what_has_examples():
    assert {example.name for example in EXAMPLES} >= {
        "create_compressed_model",
        "preview_compression",
        "register_default_init_args",
        "load_state",
        "load_pruned",
        "make_soup",
        "no_nncf_trace",
    }


@pytest.mark.slow
def test_getting_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run_page("getting-started-pytorch.md")
    assert told["before"] > 0.9 and told["accuracy"](told["small"]) > 0.9
    assert (told["answers"].argmax(1) == told["labels"][:4].numpy()).all()
    assert (tmp_path / "checkpoint.safetensors").is_file()
