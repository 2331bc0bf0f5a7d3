"""A model that is a symbolically traced `torch.fx.GraphModule`."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn

from nncf_ext import NNCFConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 8), nn.ReLU()), nn.Linear(8, 4)
        self.factor = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.block(torch.relu(self.first(x))) * self.factor))


def test_copies_are_compressed_too_and_independent() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    entries = [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, {"algorithm": "quantization"}]
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entries}), [(x, x)])
    ctrl, model = create_compressed_model(torch.fx.symbolic_trace(Net()), config)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    other = copy.deepcopy(model.eval())
    assert torch.equal(other(x), model(x)) and other.state_dict().keys() == model.state_dict().keys()
    before = model(x)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    assert torch.equal(model(x), before) and not torch.equal(other(x), before)
    plain = ctrl.strip_model(copy.deepcopy(model), quantizers=False)
    assert isinstance(plain, torch.fx.GraphModule) and not any("nncf_ext" in name for name in plain.state_dict())
    assert float((plain.first.weight == 0).float().mean()) > 0.3


class Outputs(Net):
    """A functional operator on the way out, and several outputs by name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = super().forward(x)
        return {"logits": y, "sum": y + torch.relu(self.first(x))[:, :4]}


def test_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    entries = [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, {"algorithm": "quantization"}]
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entries}), [(x, x)])
    ctrl, model = create_compressed_model(torch.fx.symbolic_trace(Outputs()), config)
    model.train()(x)
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report.exact
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [i.name for i in session.get_inputs()] == ["x"] and [o.name for o in session.get_outputs()] == ["logits", "sum"]
    expected = model.eval()(x)
    for name, found in zip(("logits", "sum"), session.run(None, {"x": x.numpy()}), strict=True):
        np.testing.assert_allclose(found, expected[name].detach().numpy(), atol=0.05)
    with pytest.raises(RuntimeError, match="would leave its transforms out"):
        torch.export.export(model, (x,))
    plain = ctrl.strip(quantizers=False)
    torch.export.export(plain, (x,))
