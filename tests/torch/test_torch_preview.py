"""`nncf-ext validate --model`: what it says is what compressing does."""

import json

import numpy as np
import pytest
from nncf_ext_torch import create_compressed_model, preview_compression
from nncf_ext_torch.demo import DigitsNet as digits_net

from nncf_ext import ConfigError, NNCFConfig, cli

COMPRESSION = [
    {"algorithm": "filter_pruning", "params": {"pruning_target": 0.4, "prune_first_conv": True}},
    {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.7}},
    {"algorithm": "quantization"},
    {"algorithm": "knowledge_distillation", "type": "softmax"},
]
CONFIG = {"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": COMPRESSION}


def values(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def test_the_preview_is_the_plan_and_changes_nothing():
    model = digits_net()
    before = values(model)
    text = str(preview_compression(model, NNCFConfig.from_dict(CONFIG)))
    after = values(model)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    for words in ("filters: 24 of 32 stay", "magnitude mask, to 70% zeros", "int8 (7 bits used) symmetric per channel"):
        assert words in text
    ctrl, _ = create_compressed_model(model, NNCFConfig.from_dict(CONFIG))
    for edit in ctrl.plan:
        assert edit.site.node[:60] in text  # longer names are folded
    for _, reason in ctrl.plan.skipped:
        assert reason.split(",")[0].split()[-1] in text
    report = ctrl.statistics().quantization
    assert f"weights quantized │ {report.weights_quantized}" in text


@pytest.mark.parametrize("algorithm", ["rb_sparsity", "const_sparsity", "binarization"])
def test_every_algorithm_tells_what_it_will_do(algorithm):
    config = NNCFConfig.from_dict({**CONFIG, "compression": {"algorithm": algorithm}})
    assert {"rb_sparsity": "rb mask", "const_sparsity": "its zeros stay zero", "binarization": "1 bit"}[algorithm] in str(
        preview_compression(digits_net(), config)
    )


def test_bits_that_data_choose_are_not_told():
    precision = {"type": "hawq", "bits": [4, 8]}
    quantization = {"algorithm": "quantization", "initializer": {"precision": precision}}
    config = NNCFConfig.from_dict({**CONFIG, "target_device": "NPU", "compression": quantization})
    text = str(preview_compression(digits_net(), config))
    assert "bits by hawq" in text
    assert "bits of the quantizers, by hawq, out of 4, 8" in text


def test_a_scope_that_matches_nothing_is_an_error():
    config = NNCFConfig.from_dict({**CONFIG, "compression": {"algorithm": "quantization", "ignored_scopes": ["nothing"]}})
    with pytest.raises(ConfigError, match="nothing"):
        preview_compression(digits_net(), config)


def test_the_command_fits_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    name = f"{digits_net.__module__}:{digits_net.__name__}"
    assert cli.main(["validate", str(tmp_path / "config.json"), "--model", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layers"))
    assert all(len(line) <= 90 for line in lines[start:])
    assert cli.main(["validate", str(tmp_path / "config.json"), "--model", "json:dumps"]) == 1
    assert "fails" in capsys.readouterr().err
