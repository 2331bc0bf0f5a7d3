"""Every architecture of torchvision.models: classification, segmentation, video, detection. Random weights, small inputs."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import models

from benchmarks.zoo.torch_subject import TorchSubject, tensors_in

_SIZES = {"inception_v3": 299, "vit_h_14": 56}
# Of detectors the teacher's pyramid is compared, or what stands in its place: in training they return losses.
_FEATURES = {
    "fpn": r"{re}BackboneWithFPN.*layer_blocks\]/Conv2dNormActivation\[0\]/",
    "ssdlite": r"{re}Sequential\[features\]/Sequential\[1\]/Sequential\[0\]/Conv2dNormActivation\[3\]/Conv2d\[0\]",
    "ssd300": r"{re}SSDFeatureExtractorVGG.*extra\]/Sequential\[0\]/Conv2d\[2\]/",
}
_SMALL = {"min_size": 128, "max_size": 160}
_GROUPS = {
    "classification": models,
    "segmentation": models.segmentation,
    "video": models.video,
    "detection": models.detection,
}
_GROUP = {name: group for group, module in _GROUPS.items() for name in models.list_models(module=module)}
NAMES = tuple(_GROUP)


def subject(name: str) -> TorchSubject:
    torch.manual_seed(0)
    return {"classification": _images, "segmentation": _images, "video": _video, "detection": _detector}[_GROUP[name]](name)


def _images(name: str) -> TorchSubject:
    settings: dict[str, Any] = {"num_classes": 10}
    size = _SIZES.get(name, 64)
    if name.startswith("vit_"):
        settings["image_size"] = size
    if name.startswith("maxvit"):
        size, settings["input_size"] = 224, (224, 224)
    if _GROUP[name] == "segmentation":
        settings["weights_backbone"] = None
    if name in ("inception_v3", "googlenet"):
        settings["init_weights"] = True
    return TorchSubject(models.get_model(name, weights=None, **settings), (torch.rand(2, 3, size, size),))


def _video(name: str) -> TorchSubject:
    if name.startswith("mvit") or name == "s3d":  # their positions, and their last pooling, are of one size
        return TorchSubject(models.get_model(name, weights=None, num_classes=10), (torch.rand(2, 3, 16, 224, 224),))
    return TorchSubject(models.get_model(name, weights=None, num_classes=10), (torch.rand(2, 3, 8, 64, 64),))


def _detector(name: str) -> TorchSubject:
    settings: dict[str, Any] = {} if name.startswith("ssd") else dict(_SMALL)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **settings)
    images = [torch.rand(3, 128, 160), torch.rand(3, 140, 128)]
    targets = [_target(name), _target(name)]

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return torch.stack(tensors_in(model(images, targets))).sum()

    features = [{"student": next(node for part, node in _FEATURES.items() if part in name)}]
    return TorchSubject(model, (images,), None, loss, True, {"type": "mse", "scale": 0, "features": features})


def _target(name: str) -> dict[str, torch.Tensor]:
    target = {"boxes": torch.tensor([[10.0, 10, 80, 90], [30, 20, 100, 120]]), "labels": torch.tensor([1, 2])}
    if name.startswith("maskrcnn"):
        target["masks"] = torch.ones(2, 128, 128, dtype=torch.uint8)
    if name.startswith("keypoint"):
        target["labels"] = torch.tensor([1, 1])
        target["keypoints"] = torch.rand(2, 17, 3) * 50 + 20
    return target
