"""Operators that detectors have behind their heads: tensors without dimensions, masks, indices, top-k, writes into batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn

from nncf_ext import NNCFConfig


def into_batch(y: Tensor) -> Tensor:
    batch = y.new_full(y.shape, 0.0)
    batch[0].copy_(y[0])
    return batch * 1.0


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar + scalar": lambda y: y * (y.max() + torch.tensor(1.0).to(y)),
    "boolean mask": lambda y: y[:, 0][y[:, 0] > 0],
    "top-k and its indices": lambda y: y[:, 0].flatten()[y[:, 0].flatten().topk(3).indices],
    "where and its index": lambda y: y[0][torch.where(y[0, 0] > -9)[0][:1] * 0],
    "nonzero": lambda y: y.flatten()[(y.flatten() > 0).nonzero().squeeze(1)] * 2,
    "sort": lambda y: y[0].flatten().sort(descending=True)[0][:4] * y.new_tensor(0.5),
    "copy_ into batch": into_batch,
    "scalars stacked": lambda y: torch.stack([v.max() for v in y]).sum() * y,
    "scalar minus tensor": lambda y: (y.amax() - y) / (y.amax() - y.amin() + 1e-6),
}


class Net(nn.Module):
    def __init__(self, behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.behind = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1), behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("name", CASES)
def test_postprocessing(name):
    """Quantized it answers within a few steps of the float model; pruned (masked) it is the model with zeroed filters."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = Net(CASES[name])
    with torch.no_grad():
        expected = plain(x)
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    _, model = create_compressed_model(Net(CASES[name]), register_default_init_args(config, [(x, 0)]))
    with torch.no_grad():
        found = model.eval()(x)
    if found.shape == expected.shape:  # which elements a mask takes may hang on a rounding
        assert (found - expected).abs().max() < 0.2 * expected.abs().max()
    else:
        assert abs(found.numel() - expected.numel()) < 0.1 * expected.numel()
    model.train()(x).sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if n in ("a.weight", "b.weight")
    )

    torch.manual_seed(0)
    params = {"all_weights": True, "prune_first_conv": True}
    pruning = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": params}
    ctrl, model = create_compressed_model(
        Net(CASES[name]), register_default_init_args(NNCFConfig.from_dict({"compression": pruning}), [(x, 0)])
    )
    with torch.no_grad():
        smaller = ctrl.strip()
        torch.testing.assert_close(smaller.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert smaller.a.weight.shape[0] < 16


class ListOfImages(nn.Module):
    """Called as torchvision's detectors are: a list of images of several sizes, and targets in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> object:
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        batch = images[0].new_full((len(images), 3, height, width), 0.0)
        for image, place in zip(images, batch, strict=True):
            place[:, : image.shape[1], : image.shape[2]].copy_(image)
        maps = self.head(torch.relu(self.body(batch)))
        if self.training:
            assert targets is not None
            wrong = [m[0, 0, 0] - target["labels"].sum() for m, target in zip(maps, targets, strict=True)]
            return {"loss": torch.stack(wrong).square().sum()}
        return [{"boxes": m[:4].flatten(1).T, "scores": m[4].flatten().sigmoid()} for m in maps]


def test_a_loader_of_lists_of_images_and_of_dicts(tmp_path):
    torch.manual_seed(0)
    images = (torch.rand(3, 8, 8), torch.rand(3, 6, 10))
    targets = ({"labels": torch.ones(2)}, {"labels": torch.ones(1)})
    initializer = {"range": {"num_init_samples": 2, "type": "min_max"}}
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization", "initializer": initializer}})
    ctrl, model = create_compressed_model(ListOfImages(), register_default_init_args(config, [(images, targets)]))
    with torch.no_grad():
        plain = ctrl.strip().eval()(list(images))
        for found, expected in zip(model.eval()(list(images)), plain, strict=True):
            torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=0.02)
    model.train()(list(images), list(targets))["loss"].backward()
    assert model.body.weight.grad is not None and model.body.weight.grad.isfinite().all()
    parity = ctrl.export_model(tmp_path / "a.onnx")
    assert parity.unoptimized <= 2 * parity.step


class Anchored(nn.Module):
    """Boxes around anchors, of which some are kept by their scores; in training the loss adds too, other things."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        maps = self.head(torch.relu(self.body(x))).permute(0, 2, 3, 1).flatten(0, 2)
        anchors = torch.arange(len(maps), dtype=torch.float32)[:, None] * torch.ones(4)
        if self.training:
            aims = torch.log(wanted + 1.0) - anchors
            return (maps[:, :4] - aims).abs().mean() + maps[:, 4].square().mean()
        boxes = maps[:, :4] * 10 + anchors
        return boxes[maps[:, 4].topk(36).indices]


def test_boxes_are_decoded_in_floating_point():
    torch.manual_seed(0)
    x, wanted = torch.randn(2, 3, 8, 8), torch.rand(72, 4)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    ctrl, model = create_compressed_model(Anchored(), register_default_init_args(config, [(x, torch.zeros(2))]))
    assert not [edit.key for edit in ctrl.plan if edit.site.node.startswith("Anchored/__")]  # no quantizer behind the head
    boxes = model.eval()(x)
    assert boxes.shape == (36, 4) and len(boxes.unique()) > 130  # not on a grid of 256 steps over all anchors
    model.train()(x, wanted).backward()
    assert model.head.weight.grad.abs().sum() > 0
