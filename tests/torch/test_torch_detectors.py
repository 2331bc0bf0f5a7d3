"""Detectors: what stands in for torchvision's branches while a file is made, and a teacher whose outputs are others."""

import sys
import types

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.detectors import detectors_without_branches
from torch import nn

from nncf_ext import NNCFConfig


def test_stand_ins_are_there_while_a_file_is_made_and_gone_afterwards(monkeypatch):
    """PyTorch as the project pins it has no torchvision beside it: `make zoo` exports torchvision's own detectors."""
    boxes, poolers = types.ModuleType("torchvision.ops.boxes"), types.ModuleType("torchvision.ops.poolers")
    boxes.batched_nms = own = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, boxes.__name__, boxes)
    monkeypatch.setitem(sys.modules, poolers.__name__, poolers)
    with pytest.raises(ZeroDivisionError), detectors_without_branches():
        assert boxes.batched_nms is not own  # type: ignore[attr-defined]
        length = vars(poolers)["len"]
        assert length([1, 2]) == 2 and length(torch.ones(3, 4)) == 3
        raise ZeroDivisionError
    assert boxes.batched_nms is own and "len" not in vars(poolers)  # type: ignore[attr-defined]


def test_suppression_is_per_class_and_of_any_number_of_boxes(monkeypatch):
    seen = []

    def nms(boxes, scores, threshold):
        seen.append(boxes)
        return scores.argsort(descending=True)

    monkeypatch.setattr(torch.ops.torchvision, "nms", nms, raising=False)
    from nncf_ext_torch import detectors

    corners = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [1, 1, 9, 9]])
    kept = detectors._batched_nms(corners, torch.tensor([0.1, 0.3, 0.2]), torch.tensor([0, 2, 0]), 0.5)
    assert kept.tolist() == [1, 2, 0]
    assert torch.equal(seen[0] - corners, torch.tensor([[0.0] * 4, [20.0] * 4, [0.0] * 4]))  # two classes, of a size of 9 + 1
    assert detectors._batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []


class Detector(nn.Module):
    """Losses in training, as torchvision's; as many detections as it finds else."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor):
        scores = self.head(torch.relu(self.backbone(x)))
        return {"loss": scores.square().mean()} if self.training else scores.flatten()[scores.flatten() > 0]


@pytest.mark.parametrize("scale", [0, 1])
def test_features_of_a_detector_are_distilled(scale):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    entry = {"algorithm": "knowledge_distillation", "type": "mse", "scale": scale, "features": [{"student": "{re}backbone"}]}
    config = NNCFConfig.from_dict({"compression": [{"algorithm": "quantization"}, entry]})
    ctrl, model = create_compressed_model(Detector(), register_default_init_args(config, [(x, 0)]))
    loss = model.train()(x)["loss"]
    if scale:
        with pytest.raises(ValueError, match=r"0 outputs and .* 1 output.*: expected as many, or features and a scale of 0"):
            ctrl.total_loss(loss)
        return
    total = ctrl.total_loss(loss)
    assert total > loss
    total.backward()
    assert model.backbone.weight.grad.abs().sum() > 0
