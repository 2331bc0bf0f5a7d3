"""A model called with a batch in training, which calls its own forward with the images (ultralytics), and one that keeps what
its first forward with some size made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Detector(nn.Module):
    """In training: the loss of a batch. In inference: boxes around anchors, which are made when the size changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.shape: Any = None

    def forward(self, x: Any) -> Any:
        if isinstance(x, dict):
            return (self.forward(x["img"]) - x["target"]).square().mean()
        y = self.head(torch.relu(self.body(x)))
        if self.training:
            return y
        if self.shape != y.shape:
            self.shape = y.shape
            steps = torch.arange(y.shape[-1], device=y.device) + 0.5
            grid = torch.meshgrid(steps, steps, indexing="ij")
            self.anchors = torch.stack(grid) + 0.0
        low, high = y.chunk(2, 1)
        return torch.cat((self.anchors - low, self.anchors + high), 1)


def compressed(model: nn.Module) -> tuple[Any, nn.Module]:
    entries = [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, {"algorithm": "quantization"}]
    return create_compressed_model(model, register_default_init_args(NNCFConfig.from_dict({"compression": entries}), [(X, X)]))


def test_a_loss_inside_is_of_the_compressed_forward() -> None:
    torch.manual_seed(0)
    _, model = compressed(Detector())
    model.train()
    loss = model({"img": X, "target": torch.zeros(())})
    torch.testing.assert_close(loss, model(X).square().mean())
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "nncf" not in name)
    fine = [p for name, p in model.named_parameters() if "scale" in name and p.grad is not None]
    assert fine


def test_anchors_of_another_size_do_not_move_edits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ctrl, model = compressed(Detector())
    model.eval()
    expected = model(X)
    for size in (1, 4, 2, 4):
        torch.testing.assert_close(model(X[:size]), expected[:size])
    assert model(torch.randn(2, 3, 6, 6)).shape == (2, 4, 6, 6)
    ctrl.export_model(tmp_path / "model.onnx")
    found = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": X.numpy()})[0]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=0.1)


def test_another_form_without_the_traced_one_inside_is_refused() -> None:
    class Other(Detector):
        def forward(self, x: Any) -> Any:
            return self.head(torch.relu(self.body(x["img"] if isinstance(x, dict) else x)))

    _, model = compressed(Other())
    with pytest.raises(RuntimeError, match="another kind of argument 'x'"):
        model({"img": X})
    assert model(X).shape == (4, 4, 8, 8)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)))


def test_inputs_have_gradients_in_the_first_step_too() -> None:
    """What a forward calls is looked for in the first one, between the inputs' quantizer and the backward pass of it."""
    torch.manual_seed(0)
    x = torch.randn(4, 4)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    _, model = create_compressed_model(Functional(), register_default_init_args(config, [(x, 0)]))
    model.train()
    gradients = []
    for _ in range(2):
        given = x.clone().requires_grad_()
        model(given).sum().backward()
        gradients.append(given.grad)
    assert gradients[0] is not None and gradients[0].abs().sum() > 0 and torch.equal(gradients[0], gradients[1])
