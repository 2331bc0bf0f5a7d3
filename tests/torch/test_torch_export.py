"""`ctrl.export_model` in PyTorch: what the file holds, that it runs in integers, and that it is the model."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from onnx import numpy_helper
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.export import integer_operators
from nncf_ext.export.parity import run, session

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")


class Net(nn.Module):
    """A plain convolution, a residual depthwise block with BatchNorm, a pooled linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(8, 16, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.project = nn.Conv2d(16, 8, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.act = nn.ReLU6()
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.act(self.bn2(self.depthwise(self.act(self.bn1(self.expand(x))))))
        x = x + self.bn3(self.project(y))
        return self.head(self.dropout(x.mean((2, 3))))


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def compressed(model: nn.Module, *algorithms: dict, shape=(1, 3, 16, 16), **keys):
    range_init = {"range": {"num_init_samples": 8}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    quantization = {"algorithm": "quantization", "initializer": range_init, **keys}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": list(shape)}, "compression": [*algorithms, quantization]})
    torch.manual_seed(1)
    data = [(torch.randn(4, *shape[1:]), torch.zeros(4)) for _ in range(2)]
    return create_compressed_model(model, register_default_init_args(config, data))


def dequantized(path) -> list[np.ndarray]:
    """Values of every DequantizeLinear of constants in the file."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            codes, step, zero = (arrays[name] for name in node.input)
            shape = [1] * codes.ndim
            if step.ndim:
                shape[node.attribute[0].i] = -1
            found.append((codes.astype(np.float32) - zero.reshape(shape)) * step.reshape(shape))
    return found


def test_every_convolution_runs_in_integers_and_the_outputs_agree(tmp_path):
    ctrl, _ = compressed(net())
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.samples == 8 and parity.lsb <= 1 and parity.unoptimized <= parity.step
    assert "LSB" in str(parity)
    operators = integer_operators(tmp_path / "model.onnx")
    assert operators["QLinearConv"] == 4 and operators["QLinearAdd"] == 1 and operators["QGemm"] == 1
    assert not {"Conv", "BatchNormalization", "Clip", "Relu", "Gemm", "MatMul"} & set(operators)


def test_weights_are_those_of_the_model_bit_for_bit(tmp_path):
    ctrl, _ = compressed(net(), {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.5}, "sparsity_init": 0.5})
    ctrl.scheduler.epoch_step()
    ctrl.export_model(tmp_path / "model.onnx")
    plain = ctrl.strip()
    values = [v for v in dequantized(tmp_path / "model.onnx") if v.ndim > 1]
    for weight in (plain.stem.weight, plain.head.weight):  # the others have a BatchNorm folded in
        expected = weight.detach().numpy()
        assert any(np.array_equal(value.reshape(-1), expected.reshape(-1)) for value in values)
        assert (expected == 0).mean() > 0.1


def test_mixed_bits(tmp_path):
    """Widths from 2 to 8 side by side; a few weights' codes are few, the file's outputs are the model's."""
    bits = [
        [2, "{re}depthwise.*\\|WEIGHT"],
        [4, "{re}expand.*\\|WEIGHT"],
        [3, "{re}head.*\\|WEIGHT"],
        [4, "{re}ReLU6.*\\|OUTPUT"],
        [6, "{re}mean"],
    ]
    batchnorm = {"num_bn_adaptation_samples": 0}
    initializer = {"batchnorm_adaptation": batchnorm, "precision": {"bitwidth_per_scope": bits}}
    ctrl, model = compressed(net(), initializer=initializer)
    assert len({edit.transform.bits for edit in ctrl.plan}) == 5
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.samples == 8 and parity.exact
    # a bias is rounded to the steps of its products: now and then that moves a number to the next of 15 levels
    x = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    runner = session(tmp_path / "model.onnx", optimize=False)
    (found,) = runner.run(None, {runner.get_inputs()[0].name: x.numpy()})
    assert (np.abs(found - expected).max(1) < 0.1 * parity.step).mean() > 0.9
    head = next(value for value in dequantized(tmp_path / "model.onnx") if sorted(value.shape) == [5, 8])
    expected = ctrl.strip().head.weight.detach().numpy()
    assert np.array_equal(head, expected) or np.array_equal(head.T, expected)
    assert all(len(np.unique(np.round(row / np.abs(row)[row != 0].min(), 3))) <= 8 for row in expected)


def test_batch_size_is_free_and_names_are_the_users(tmp_path):
    ctrl, model = compressed(net())
    ctrl.export_model(tmp_path / "model.onnx", input_names=["image"], output_names=["scores"])
    runner = session(tmp_path / "model.onnx")
    assert [v.name for v in runner.get_inputs()] == ["image"] and [v.name for v in runner.get_outputs()] == ["scores"]
    x = torch.randn(7, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    np.testing.assert_allclose(run(runner, [x.numpy()])[0], expected, atol=float(np.ptp(expected)) / 60)


def test_the_model_trains_on_as_before(tmp_path):
    ctrl, model = compressed(net())
    model.train()
    before, x = copy.deepcopy(model.state_dict()), torch.randn(4, 3, 16, 16)
    expected = model.eval()(x).detach()
    model.train()
    ctrl.export_model(tmp_path / "model.onnx")
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(x), expected)
    model.train()(x).sum().backward()


def test_a_failing_export_leaves_the_model_compressed(tmp_path, monkeypatch):
    ctrl, model = compressed(net())
    x = torch.randn(2, 3, 16, 16)
    expected = model.eval()(x).detach()

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(RuntimeError, match="no"):
        ctrl.export_model(tmp_path / "model.onnx")
    assert torch.equal(model(x), expected) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "activations", [pytest.param({"bits": 4}, marks=pytest.mark.slow), {"mode": "asymmetric"}, {"per_channel": True}], ids=str
)
def test_other_grids(tmp_path, activations):
    algorithm = {
        "algorithm": "quantization",
        "activations": activations,
        "weights": {"mode": "asymmetric"} if "mode" in activations else {},
        "initializer": {"range": {"num_init_samples": 8}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}},
    }
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 16, 16]}, "compression": algorithm})
    data = [(torch.randn(4, 3, 16, 16), torch.zeros(4)) for _ in range(2)]
    ctrl, _ = create_compressed_model(net(), register_default_init_args(config, data))
    parity = ctrl.export_model(tmp_path / "model.onnx")
    levels = 17 if "bits" in activations else 1  # an output step is an 8-bit one, a flipped 4-bit code counts 17 of them
    assert parity.unoptimized <= levels * parity.step


def test_bert_runs_every_linear_layer_in_integers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **sizes)
    )
    keyword = [{"sample_size": [1, 8], "type": "long", "filler": "ones", "keyword": k} for k in ("input_ids", "attention_mask")]
    range_init = {"range": {"num_init_samples": 4}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    config = NNCFConfig.from_dict(
        {"input_info": keyword, "compression": {"algorithm": "quantization", "initializer": range_init}}
    )
    ids = [{"input_ids": torch.randint(0, 50, (4, 8)), "attention_mask": torch.ones(4, 8, dtype=torch.long)} for _ in range(2)]
    ctrl, _ = create_compressed_model(model, register_default_init_args(config, [(batch, torch.zeros(4)) for batch in ids]))
    parity = ctrl.export_model(tmp_path / "bert.onnx")
    assert parity.samples == 8 and parity.unoptimized <= 2 * parity.step
    operators = integer_operators(tmp_path / "bert.onnx")
    assert operators["MatMulIntegerToFloat"] + operators["QLinearMatMul"] + operators["QGemm"] >= 8  # 6 in the block, 2 above
    assert not {"Gemm", "FusedGemm"} & set(operators)
    assert operators["MatMul"] + operators["FusedMatMul"] <= 2  # the attention's own, which have no weights


class TiedHead(nn.Module):
    """As language models do: the weight of the embedding is the weight of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.head = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])


def test_a_weight_shared_by_embedding_and_head_has_a_scale_per_output(tmp_path):
    """And the head reads one of the two results of an operator that is left alone."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (4, 6))
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    ctrl, model = create_compressed_model(TiedHead(), register_default_init_args(config, [(tokens, None)]))
    (edit,) = [edit for edit in ctrl.plan if edit.site.is_parameter and "gru" not in edit.key]
    assert len(edit.sites) == 2 and ctrl.variable_values(edit)["scale"].shape == (20, 1)
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.lsb < 1
    assert integer_operators(tmp_path / "model.onnx")["MatMulIntegerToFloat"] == 1


def test_logarithms_and_four_bits_by_scope(tmp_path):
    logarithm = {"logarithm_scale": True}
    overrides = {
        "weights": {"{re}expand|depthwise|project": {"bits": 4}},
        "activations": {"{re}head": {"bits": 4, "mode": "asymmetric"}},
    }
    ctrl, _ = compressed(net(), weights=logarithm, activations=logarithm, scope_overrides=overrides)
    assert {edit.transform.bits for edit in ctrl.plan if edit.site.is_parameter} == {4, 8}
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.lsb <= 1 and parity.unoptimized <= parity.step
    operators = integer_operators(tmp_path / "model.onnx")
    assert not {"Conv", "BatchNormalization", "Relu", "Gemm", "MatMul"} & set(operators)  # a Clip has the codes of the 4-bit one


class Suppressing(nn.Module):
    """As many outputs as there are scores above zero, and another way where there are none: no exporter follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.head(x)
        kept = scores[scores > 0]
        return kept if kept.numel() == 0 else kept - kept.max()


def test_what_cannot_be_exported_in_float_is_refused_in_a_sentence(tmp_path):
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    controller, _ = create_compressed_model(Suppressing(), register_default_init_args(config, [(torch.randn(3, 4), 0)]))
    with pytest.raises(
        ValueError, match=r"torch.onnx cannot export Suppressing, not even without compression \(.+: .+\): expected"
    ):
        controller.export_model(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
