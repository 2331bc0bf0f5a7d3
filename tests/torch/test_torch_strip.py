"""Stripped models: the outputs of the compressed ones, and PyTorch's own fake-quantize operators for whoever exports them."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig

INPUT = (4, 3, 12, 12)
INT8 = {"algorithm": "quantization"}
BEGUN = {"weights_quant_start_epoch": 0, "activations_quant_start_epoch": 0}


class Net(nn.Module):
    """A convolution, a sum (a function, not a module), a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + torch.relu(self.second(x))
        return self.head(x.mean((2, 3)))


def batch(seed: int = 0) -> torch.Tensor:
    return torch.randn(INPUT, generator=torch.Generator().manual_seed(seed))


def compressed(*compression: dict, net: type[nn.Module] = Net):
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, *INPUT[1:]]}, "compression": list(compression)})
    ctrl, model = create_compressed_model(net().eval(), register_default_init_args(config, [(batch(), torch.zeros(4))]))
    return ctrl, model.eval()


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        return model(batch(1))


def step_of_outputs(ctrl, model) -> float:
    """What one step of the last activation quantizer can change."""
    plain = ctrl.strip(quantizers=False)
    steps = [buffer.item() for name, buffer in ctrl.strip().named_buffers() if name.endswith("_scale") and buffer.numel() == 1]
    return max(steps) * plain.head.weight.detach().abs().sum(1).max().item()


@pytest.fixture(scope="module")
def both():
    ctrl, model = compressed(INT8)
    return {"compressed": model, "stripped": ctrl.strip()}, step_of_outputs(ctrl, model)


@pytest.mark.parametrize("state", ["compressed", "stripped"])
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_of_the_frameworks_exporter(both, state, dynamo):
    models, tolerance = both
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(models[state], (batch(1),), file, dynamo=dynamo, verbose=False)
    proto = program.model_proto if dynamo else onnx.load_from_string(file.getvalue())
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] >= 7  # three weights, and activations
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: batch(1).numpy()})
    np.testing.assert_allclose(y, outputs(models["compressed"]), rtol=0, atol=tolerance)


@pytest.mark.parametrize("state", ["compressed", "stripped"])
def test_exported_program(both, state):
    models, tolerance = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(models[state], (batch(1),))
    kinds = Counter(str(node.target) for node in program.graph.nodes)
    assert kinds["aten.fake_quantize_per_channel_affine.default"] == 3
    assert kinds["aten.fake_quantize_per_tensor_affine.tensor_qparams"] >= 4
    torch.testing.assert_close(program.module()(batch(1)), outputs(models["compressed"]), rtol=0, atol=tolerance)


@pytest.mark.parametrize("state", ["compressed", "stripped"])
def test_openvino(both, state):
    openvino = pytest.importorskip("openvino")
    models, tolerance = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(models[state], example_input=batch(1))
        compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter(op.get_type_name() for op in converted.get_ops())
    assert kinds["FakeQuantize"] >= 4
    constants = [op for op in converted.get_ops() if op.get_type_name() == "Constant" and op.get_element_type().is_integral()]
    assert sum(len(constant.output(0).shape) >= 2 for constant in constants) >= 3  # the weights are integers
    np.testing.assert_allclose(compiled(batch(1).numpy())[0], outputs(models["compressed"]), rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_stripped_model_is_a_model():
    ctrl, model = compressed(INT8)
    expected, plain = outputs(model), ctrl.strip()
    assert torch.equal(outputs(plain), expected) and type(plain).__name__ == "Net"
    assert not torch.equal(outputs(ctrl.strip(quantizers=False)), expected)
    for again in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), plain.to("cpu"), ctrl.strip_model(plain, True)):
        assert torch.equal(outputs(again), expected)
    assert torch.equal(outputs(torch.compile(plain, backend="aot_eager", fullgraph=True)), expected)
    buffers = {f"first.nncf_ext_weight_fixed_quantizer_{name}" for name in ("scale", "zero_point")}
    assert {name for name in plain.state_dict() if name.startswith("first.")} == {"first.weight", "first.bias"} | buffers
    other = compressed(INT8)[0].strip()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(outputs(other), expected)
    assert {p for p, _ in plain.named_parameters()} == {p for p, _ in Net().named_parameters()}


def test_a_stripped_model_trains_on():
    ctrl, _ = compressed(INT8)
    plain = ctrl.strip().train()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    before = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    losses = []
    for _ in range(5):
        loss = (plain(batch()) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(buffer, before[name]) for name, buffer in plain.named_buffers())


def test_compressing_again():
    ctrl, model = compressed(INT8)
    plain = ctrl.strip()
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, *INPUT[1:]]}, "compression": INT8})
    with pytest.raises(ValueError, match="quantizers=False first"):
        create_compressed_model(plain, config)
    ctrl.strip_model(plain, quantizers=False)
    assert set(plain.state_dict()) == set(Net().state_dict())
    create_compressed_model(plain, register_default_init_args(config, [(batch(), torch.zeros(4))]))


def test_in_place():
    ctrl, model = compressed(INT8)
    expected = outputs(model)
    ctrl.prepare_for_export()
    assert torch.equal(outputs(model), expected)
    assert any("fixed_quantizer" in name for name in model.state_dict())
    assert ctrl.strip(do_copy=False, quantizers=False) is model and type(model) is Net


def test_removed_channels():
    pruning = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"prune_first_conv": True}}
    ctrl, model = compressed(pruning, INT8)
    expected = outputs(model)
    for plain in (ctrl.strip(), ctrl.strip(do_copy=False)):
        assert plain.first.weight.shape[0] < 32
        assert plain.first.nncf_ext_weight_fixed_quantizer_scale.shape[0] == plain.first.weight.shape[0]
        torch.testing.assert_close(outputs(plain), expected, rtol=0, atol=1e-6)


def test_channels_of_activations():
    ctrl, model = compressed({**INT8, "activations": {"per_channel": True}, "quantize_inputs": False})
    plain = ctrl.strip()
    assert any(b.numel() == 32 for n, b in plain.named_buffers() if "input_0" in n or "output" in n)
    assert torch.equal(outputs(plain), outputs(model))
    program = torch.export.export(plain, (batch(1),))
    assert Counter(str(node.target) for node in program.graph.nodes)["aten.fake_quantize_per_channel_affine.default"] > 3


@pytest.mark.parametrize(
    ("compression", "kept"),
    [
        ({**INT8, "weights": {"bits": 4}, "activations": {"bits": 4}}, True),
        ({**INT8, "weights": {"bits": 4, "group_size": 32}, "target_scopes": ["{re}head"]}, False),
        ({**INT8, "weights": {"quantizer": "fp8_e4m3"}, "activations": {"quantizer": "fp8_e4m3"}}, False),
        ({"algorithm": "binarization", "mode": "xnor", "ignored_scopes": ["{re}first"], "params": BEGUN}, False),
    ],
    ids=["4 bits", "groups", "fp8", "binary"],
)
def test_other_quantizers(compression, kept):
    """What the operator cannot say: weights stay rounded, quantizers of activations stay ours."""
    ctrl, model = compressed(compression)
    plain = ctrl.strip()
    assert torch.equal(outputs(plain), outputs(model))
    assert any("second.nncf_ext_weight_fixed" in name for name in plain.state_dict()) == kept
    assert not torch.equal(outputs(plain), outputs(ctrl.strip(quantizers=False)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(plain, batch(1), check_trace=False)
    torch.testing.assert_close(traced(batch(1)), outputs(model), rtol=0, atol=1e-6)
