"""Models that went through `torch.compile` before or after they were compressed."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model, preview_compression, register_default_init_args
from torch import Tensor, nn

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(x + torch.relu(self.second(x)))


def trained(how: str) -> tuple[object, nn.Module, list[float]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model: nn.Module = Net()
    if how == "before":
        model = torch.compile(model, backend="eager")
    elif how == "in place before":
        model.compile(backend="eager")
    elif how == "a part before":
        model.second = torch.compile(model.second, backend="eager")
    model(X)
    entries = [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, {"algorithm": "quantization"}]
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entries}), [(X, X)])
    preview_compression(model, config)
    ctrl, model = create_compressed_model(model, config)
    if how == "in place after":
        model.compile(backend="eager")
    elif how == "after":
        model = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.mse_loss(model.train()(X), X[:, :4])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return ctrl, model, losses


def test_a_compiled_model_is_looked_at_as_python() -> None:
    """Nothing is compiled here: torch would have to."""

    def backend(graph: object, inputs: object) -> object:
        raise AssertionError("compiled")

    for compiled in (lambda m: torch.compile(m, backend=backend), lambda m: (m.compile(backend=backend), m)[1]):
        model = compiled(Net())
        config = register_default_init_args(NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}}), [(X, X)])
        preview_compression(model, config)
        ctrl, returned = create_compressed_model(model, config)
        assert returned is model and isinstance(ctrl.model, Net) and len(list(ctrl.plan)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "in place before", "a part before", "in place after", "after"])
def test_attach_train_strip_and_export(how: str, tmp_path: Path) -> None:
    ctrl, model, losses = trained(how)
    _, eager, expected = trained("not")
    assert losses == pytest.approx(expected, rel=1e-5) and losses[-1] < losses[0]
    y = model.eval()(X).detach()
    torch.testing.assert_close(y, eager.eval()(X).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ctrl.strip()(X).detach(), y, rtol=1e-4, atol=1e-5)
    ctrl.export_model(tmp_path / "model.onnx")
    found = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": X.numpy()})[0]
    np.testing.assert_allclose(found, y.numpy(), atol=0.03)
    torch.testing.assert_close(model(X).detach(), y)  # it is compiled still, and compressed
    torch.testing.assert_close(copy.deepcopy(model)(X).detach(), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_models_in_other_floating_types(dtype: torch.dtype, tmp_path: Path) -> None:
    """`input_info` makes inputs of the weights' type, training stays in it, files are float32."""
    torch.manual_seed(0)
    entries = [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, {"algorithm": "quantization"}]
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [16, 8]}, "compression": entries})
    x = X.to(dtype)
    ctrl, model = create_compressed_model(Net().to(dtype), register_default_init_args(config, [(x, x)]))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.mse_loss(model.train()(x), x[:, :4])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    plain = ctrl.strip()
    y = model.eval()(x).detach()
    assert y.dtype == dtype and {p.dtype for p in plain.parameters()} == {dtype}
    torch.testing.assert_close(plain(x).detach(), y)
    assert float((plain.first.weight == 0).double().mean()) > 0.2
    ctrl.export_model(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert session.get_inputs()[0].type == "tensor(float)"
    np.testing.assert_allclose(session.run(None, {"x": x.float().numpy()})[0], y.float().numpy(), atol=0.05)
