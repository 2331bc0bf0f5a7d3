"""torchvision's detectors in a form that torch.export can follow: without branches on how many boxes there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def detectors_without_branches() -> Iterator[None]:
    """Within, torchvision's suppression and its pooling of regions compute what they do otherwise, for any number of boxes.

    Nothing where torchvision is not imported.
    """
    boxes, poolers = (sys.modules.get(f"torchvision.ops.{name}") for name in ("boxes", "poolers"))
    stand_ins = [(boxes, "batched_nms", _batched_nms), (poolers, "len", _length)]
    before = [(module, name, vars(module).get(name)) for module, name, _ in stand_ins if module is not None]
    try:
        for module, name, function in stand_ins:
            if module is not None:
                setattr(module, name, function)
        yield
    finally:
        for module, name, function in before:
            if function is None:
                delattr(module, name)
            else:
                setattr(module, name, function)


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better one of the same class overlaps, the best first. boxes (N, 4); scores, idxs (N,).

    torchvision takes one of two ways by N, and leaves for N = 0. This is the first: classes are moved apart by more than any
    coordinate, zero among them, so that there is one where there is no box.
    """
    farthest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    apart = idxs.to(boxes) * (farthest + 1)
    return torch.ops.torchvision.nms(boxes + apart[:, None], scores, iou_threshold)


def _length(value: Any) -> Any:
    """`len`, which makes a constant of a tensor's size."""
    return value.shape[0] if isinstance(value, Tensor) else len(value)
