"""What `nncf-ext validate --model` and `preview_compression` say of a Keras model is what compressing it does."""

from pathlib import Path

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, preview_compression
from nncf_ext_tensorflow.demo import digits_net

from nncf_ext import NNCFConfig
from nncf_ext.tools import cli

CONFIG = {
    "compression": [
        {"algorithm": "filter_pruning", "params": {"pruning_target": 0.4}},
        {"algorithm": "quantization", "target_scopes": ["{re}conv"]},
        {"algorithm": "knowledge_distillation", "type": "mse"},
    ]
}
DIGITS = "nncf_ext_tensorflow.demo:digits_net"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Room for whole names, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "200")


def test_it_says_what_compressing_does_and_changes_nothing():
    model, config = digits_net(), NNCFConfig.from_dict(CONFIG)
    before = [(variable.path, variable.numpy()) for variable in model.variables]
    classes = [type(layer) for layer in model._flatten_layers()]

    preview = preview_compression(model, config)

    assert [type(layer) for layer in model._flatten_layers()] == classes
    assert [variable.path for variable in model.variables] == [path for path, _ in before]
    assert all(np.array_equal(variable.numpy(), value) for variable, (_, value) in zip(model.variables, before, strict=True))
    text = str(preview)
    for layer in model.layers:
        if layer.weights:
            assert layer.name in text
    totals = preview.totals["filter_pruning"]
    ctrl, _ = create_compressed_model(model, config)
    unknown = {"signed", "learned"}  # until there are data
    assert [(e.sites, e.transform.model_dump(exclude=unknown)) for e in preview.plan] == [
        (e.sites, e.transform.model_dump(exclude=unknown)) for e in ctrl.plan
    ]
    assert preview.plan.skipped == ctrl.plan.skipped
    assert totals.full_flops == ctrl.statistics().filter_pruning.full_flops > totals.flops_at_the_end
    assert preview.totals["quantization"].quantizers == ctrl.statistics().quantization.quantizers


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    path = tmp_path / "config.json"
    path.write_text('{"compression": [{"algorithm": "filter_pruning"}, {"algorithm": "quantization"}]}')
    assert cli.main(["validate", str(path), "--model", DIGITS]) == 0
    out = capsys.readouterr().out
    keras.utils.clear_session()  # the command's model has the first names
    for layer in digits_net().layers:
        if layer.weights:
            assert f"│ {layer.name} " in out
    for words in ("valid", "filters: ", "symmetric per channel", "prune_first_conv is false", "filter_pruning: groups"):
        assert words in out


def test_a_model_that_does_not_know_its_inputs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import keras\n"
        "class Net(keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = keras.layers.Dense(3)\n"
        "    def call(self, x):\n"
        "        return self.fc(x)\n"
    )
    Path("bare.json").write_text('{"compression": {"algorithm": "quantization"}}')
    assert cli.main(["validate", "bare.json", "--model", "nets.py:Net"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "has not been built" in captured.err
    Path("sized.json").write_text('{"input_info": {"sample_size": [1, 4]}, "compression": {"algorithm": "quantization"}}')
    assert cli.main(["validate", "sized.json", "--model", "nets.py:Net"]) == 0
    assert "int8" in capsys.readouterr().out


def test_a_scope_without_a_layer(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text('{"compression": {"algorithm": "quantization", "ignored_scopes": "conv99"}}')
    assert cli.main(["validate", str(path), "--model", DIGITS]) == 1
    assert '"conv99" matches no node' in capsys.readouterr().err


@pytest.fixture(autouse=True)
def names_from_the_start():
    keras.utils.clear_session()
