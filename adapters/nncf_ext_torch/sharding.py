"""Several processes: tensors that FSDP2 holds in shards, and values that must be the same on all ranks."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

T = TypeVar("T")


def is_sharded(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself or, of one in shards, all of it (all ranks must ask), attached to autodiff."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """All of a tensor, without its history; half precision as float32."""
    array = whole(tensor.detach()).cpu()
    return (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()


def overwrite(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy `value`, which is whole and the same on all ranks, into a tensor that may be in shards."""
    with torch.no_grad():
        tensor.copy_(_placed_like(tensor, value))


def multiply(tensor: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply a tensor that may be in shards, in place, by `factor`, which is whole and the same on all ranks."""
    with torch.no_grad():
        tensor.mul_(_placed_like(tensor, factor))


def _placed_like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    value = value.to(tensor.device, tensor.dtype)
    if not is_sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = tensor
    return distribute_tensor(value, sharded.device_mesh, sharded.placements, src_data_rank=None)


def broadcast_from_rank0(value: T) -> T:
    """What rank 0 has, on all ranks; `value` where there is one process only."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
