"""Masks by scores (`nncf_ext.numerics`) in the compiled kernel, for float32 on CPU: one pass over memory each way.

Every function gives None for what the kernel does not serve; the composite of `numerics` then does.

Masking by scores reads all of them, so it counts the positive ones on the way, and the gradient by that count is made in the same
backward pass. The count waits at the score tensor, for the one `kept_count` that a loss will ask for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nncf_ext import noise
from nncf_ext_torch import native
from nncf_ext_torch.first_derivatives import first_derivative
from nncf_ext_torch.torch_private import in_transform, version_of, without_function_modes

_COUNT = "_nncf_ext_count"  # attribute of a score tensor: the count that a forward made of it, and its version then


def masked_by_score(x: Tensor, score: Tensor, rows: Tensor | None) -> Tensor | None:
    """See `nncf_ext.numerics.masked_by_score`. Differentiable once."""
    if in_transform() or not native.serves(x, score) or not _alike(x, score):
        return None
    if rows is not None and not (x.is_contiguous() and rows.dtype is torch.int32):
        return None  # noise is in the order of the indices
    with without_function_modes():
        y, count = _MaskedByScore.apply(x, score, rows)
        if count.requires_grad:
            setattr(score, _COUNT, (count, version_of(score)))
        return y


def kept_count(score: Tensor) -> Tensor | None:
    """See `nncf_ext.numerics.kept_count`. Differentiable once."""
    if in_transform() or not native.serves(score) or not _is_dense(score):
        return None
    with without_function_modes():
        count, version = vars(score).pop(_COUNT, (None, None))
        return count if version == version_of(score) and torch.is_grad_enabled() else _KeptCount.apply(score)


def _alike(x: Tensor, other: Tensor) -> bool:
    """Whether both lie in memory without gaps, in the same order."""
    return other.is_cpu and x.shape == other.shape and x.stride() == other.stride() and _is_dense(x)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or torch.empty_like(x).stride() == x.stride()


def _in_order_of(x: Tensor, g: Tensor) -> Tensor:
    return g if g.stride() == x.stride() else torch.empty_like(x).copy_(g)


def _table() -> int:
    return noise.table().ctypes.data


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _MaskedByScore(Function):
    """y, and how many scores are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, score: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        # not save_for_backward, which frees: the gradients of y and of the count may be asked for one after the other
        ctx.x, ctx.score, ctx.versions = x, score, (version_of(x), version_of(score))
        ctx.rows = None if rows is None else rows.clone()  # the next step draws others, maybe before this one's backward
        ctx.set_materialize_grads(False)
        y, size, parts = torch.empty_like(x), x.numel(), native.parts(x.numel())
        counts = torch.empty(() if parts == 1 else parts)
        pointers = x.data_ptr(), score.data_ptr(), _table(), _pointer(ctx.rows), y.data_ptr(), counts.data_ptr()
        native.run("masked_by_score_forward", parts, *pointers, size)
        return y, counts if parts == 1 else counts.sum()

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor | None, by_count: Tensor | None) -> tuple[Tensor | None, ...]:
        x, score = ctx.x, ctx.score
        if (version_of(x), version_of(score)) != ctx.versions:
            raise RuntimeError("a weight or its scores were written to between the forward and the backward pass")
        if g is None:
            return None, None if by_count is None else _by_scores(by_count, score), None
        g, size = _in_order_of(x, g), x.numel()
        dx = torch.empty_like(x)
        dscore = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        pointers = g.data_ptr(), _pointer(by_count), x.data_ptr(), score.data_ptr(), _table(), _pointer(ctx.rows)
        native.run("masked_by_score_backward", native.parts(size), *pointers, dx.data_ptr(), _pointer(dscore), size)
        return dx, dscore, None


class _KeptCount(Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor) -> Tensor:
        ctx.save_for_backward(score)
        size, parts = score.numel(), native.parts(score.numel())
        counts = torch.empty(() if parts == 1 else parts)
        native.run("kept_count_forward", parts, score.data_ptr(), counts.data_ptr(), size)
        return counts if parts == 1 else counts.sum()

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _by_scores(g, *ctx.saved_tensors)


def _by_scores(g: Tensor, score: Tensor) -> Tensor:
    dscore, size = torch.empty_like(score), score.numel()
    native.run("kept_count_backward", native.parts(size), g.data_ptr(), score.data_ptr(), dscore.data_ptr(), size)
    return dscore
