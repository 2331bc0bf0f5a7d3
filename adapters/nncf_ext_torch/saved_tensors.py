"""What autograd keeps of fake-quantized tensors for the backward pass: nothing, where they can be computed again.

A convolution keeps its input and its weight. Fake-quantized, these are copies of tensors that are held anyway: a parameter, or
the output of a Relu. They are cheap to compute, so inside a compressed model's forward they are kept as their recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nncf_ext_torch.torch_private import (
    base_of,
    in_transform,
    keeps_result,
    keeps_saved_tensors_otherwise,
    version_of,
    without_function_modes,
)

_RECOMPUTE = "_nncf_ext_recipe"  # attribute of a tensor that has one


@dataclass(frozen=True)
class _Recompute:
    compute: Callable[[], Tensor]
    version: int  # of the tensor: one that was written into since is another


@dataclass(frozen=True)
class _Packed:
    recompute: _Recompute
    place: tuple[Any, Any, Any]  # size, strides and offset in the recipe's tensor


def is_held(x: Tensor) -> bool:
    """Whether `x` stays in memory until the backward pass anyway: a parameter, or a result that its operator keeps."""
    return x.is_leaf or keeps_result(x.grad_fn)


def set_recompute(y: Tensor, compute: Callable[[], Tensor]) -> None:
    """`compute` makes `y` again, bit for bit and in the same layout, out of tensors that are held anyway."""
    setattr(y, _RECOMPUTE, _Recompute(compute, version_of(y)))


def recomputing_saved() -> AbstractContextManager[Any]:
    """Around a forward pass. Does nothing where it has no use, or where the user keeps tensors in a way of their own."""
    if keeps_saved_tensors_otherwise() or not torch.is_grad_enabled() or in_transform():
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_pack, _unpack)


def _pack(tensor: Tensor) -> Tensor | _Packed:
    with without_function_modes():  # a function mode around must not take these for the model's operators
        base = base_of(tensor)  # a linear layer keeps its weight transposed
        recompute: _Recompute | None = getattr(base, _RECOMPUTE, None)
        if recompute is None or recompute.version != version_of(base):
            return tensor
        return _Packed(recompute, (tensor.size(), tensor.stride(), tensor.storage_offset()))


def _unpack(packed: Tensor | _Packed) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    with without_function_modes(), torch.no_grad():
        return packed.recompute.compute().as_strided(*packed.place)
