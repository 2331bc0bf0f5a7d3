"""The array namespace `xp` of the core in torch: numpy's names and argument names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import (  # noqa: F401  (these functions are the namespace)
    abs,
    count_nonzero,
    exp,
    log,
    matmul,
    moveaxis,
    ones_like,
    reshape,
    round,
    sigmoid,
    sign,
    sqrt,
    square,
    stack,
    tanh,
    zeros_like,
)
from torch import bitwise_right_shift as right_shift  # noqa: F401

from nncf_ext_torch import code_kernels, kernels, mask_kernels

fused = {
    "fake_quantize": kernels.fake_quantize,
    "fake_quantize_symmetric": kernels.fake_quantize_symmetric,
    "scale_gradient": kernels.scale_gradient,
    "masked_by_score": mask_kernels.masked_by_score,
    "kept_count": mask_kernels.kept_count,
    "decoded": code_kernels.decoded,
}

Axis = int | tuple[int, ...] | None


def stop_gradient(x: torch.Tensor) -> torch.Tensor:
    return x.detach()


def cast_like(x: Any, like: torch.Tensor) -> torch.Tensor:
    """`x` with the dtype and device of `like`; a `like` without axes says nothing about the device."""
    x = torch.as_tensor(x)
    return x.to(like.dtype) if like.ndim == 0 else x.to(like.device, like.dtype)


def asarray(x: Any, like: torch.Tensor | None = None) -> torch.Tensor:
    return torch.as_tensor(x) if like is None else torch.as_tensor(x, dtype=like.dtype, device=like.device)


def where(condition: torch.Tensor, x: Any, y: Any) -> torch.Tensor:
    return torch.where(condition, x, y)


def minimum(x: torch.Tensor, y: Any) -> torch.Tensor:
    return torch.minimum(x, y) if isinstance(y, torch.Tensor) else torch.clamp(x, max=y)


def maximum(x: torch.Tensor, y: Any) -> torch.Tensor:
    return torch.maximum(x, y) if isinstance(y, torch.Tensor) else torch.clamp(x, min=y)


def clip(x: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    return minimum(maximum(x, low), high)


def sum(x: torch.Tensor, axis: Axis = None, keepdims: bool = False) -> torch.Tensor:
    return torch.sum(x, dim=axis, keepdim=keepdims)


def mean(x: torch.Tensor, axis: Axis = None, keepdims: bool = False) -> torch.Tensor:
    return torch.mean(x, dim=axis, keepdim=keepdims)


def min(x: torch.Tensor, axis: Axis = None, keepdims: bool = False) -> torch.Tensor:
    return torch.amin(x, dim=() if axis is None else axis, keepdim=keepdims)


def max(x: torch.Tensor, axis: Axis = None, keepdims: bool = False) -> torch.Tensor:
    return torch.amax(x, dim=() if axis is None else axis, keepdim=keepdims)


def softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return torch.softmax(x, dim=axis)


def log_softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return torch.log_softmax(x, dim=axis)


def concatenate(arrays: Sequence[torch.Tensor], axis: int = 0) -> torch.Tensor:
    return torch.cat(list(arrays), dim=axis)


def sort(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return torch.sort(x, dim=axis, stable=True).values


def argsort(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return torch.argsort(x, dim=axis, stable=True)


def take(x: torch.Tensor, indices: torch.Tensor, axis: int = 0) -> torch.Tensor:
    return torch.index_select(x, axis, indices.to(x.device))


def cumsum(x: torch.Tensor, axis: int | None = None) -> torch.Tensor:
    return torch.cumsum(x.flatten() if axis is None else x, dim=axis or 0, dtype=x.dtype)


def constant(make: Callable[[], np.ndarray], like: torch.Tensor) -> torch.Tensor:
    """What `make`, a function of a module, gives on the device of `like`, made once."""
    return _constant(make.__module__, make.__name__, like.device)


_constants: dict[tuple[str, str, torch.device], torch.Tensor] = {}


@torch.compiler.assume_constant_result
def _constant(module: str, name: str, device: torch.device) -> torch.Tensor:  # to torch.compile a function is no constant
    if (module, name, device) not in _constants:
        _constants[module, name, device] = torch.tensor(getattr(import_module(module), name)(), device=device)
    return _constants[module, name, device]


def rows_joined(x: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
    """The first `size` elements of these rows of the matrix `x`, side by side."""
    if not torch.compiler.is_compiling():
        return torch.index_select(x, 0, rows).flatten()[:size]
    at, width = torch.arange(size, device=x.device), x.shape[1]  # Inductor cannot slice the other form, and makes a loop of this
    return x.flatten()[rows[at // width] * width + at % width]


def at_indices(x: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`x` with `values` at `indices` (of its last axis) instead."""
    return torch.scatter(x, -1, indices.long(), values)


def rounded_to(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """`x` rounded to the numbers of a narrower floating point type, half to even; it must be within their range."""
    return x.to(getattr(torch, dtype)).to(x.dtype)


def float_bits(x: torch.Tensor) -> torch.Tensor:
    """The bits of `x` as float32, as int32: of positive numbers in their order, of negative ones with the lowest bit set."""
    return x.to(torch.float32).view(torch.int32)


def float_from_bits(bits: torch.Tensor) -> torch.Tensor:
    return bits.view(torch.float32)


def segment_sum(x: torch.Tensor, segments: torch.Tensor, count: int) -> torch.Tensor:
    """The sum of the elements of the flat `x` in each of `count` segments: those for which `segments` (int32) has its number.

    Floats are added as whole numbers of at most 2^62 in all: what GPUs and Inductor add in any order is the same every time.
    """
    if not x.is_floating_point():
        return torch.zeros(count, dtype=x.dtype, device=x.device).index_add(0, segments, x)
    unit = torch.clamp(x.abs().max().double(), min=1e-38) / 2.0 ** (62 - x.numel().bit_length())
    sums = torch.zeros(count, dtype=torch.int64, device=x.device).index_add(0, segments, (x.double() / unit).long())
    return (sums.double() * unit).to(x.dtype)


def is_floating(x: torch.Tensor) -> bool:
    return x.is_floating_point()


def kth_smallest(x: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th smallest element (k >= 1) of a flat array. On a CPU numpy selects faster than torch."""
    if x.device.type != "cpu":
        return torch.kthvalue(x, k).values
    values = (x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()).numpy()
    return torch.tensor(np.partition(values, k - 1)[k - 1], dtype=x.dtype)
