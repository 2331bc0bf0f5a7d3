"""Weights by their codes (`nncf_ext.numerics.decoded`) in the compiled kernel: float32 on CPU, one pass over memory each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nncf_ext_torch import native
from nncf_ext_torch.first_derivatives import first_derivative
from nncf_ext_torch.torch_private import in_transform, without_function_modes

_LANES = 4  # as in csrc/codes.c


def decoded(x: Tensor, codes: Tensor, centroids: Tensor) -> Tensor | None:
    """See `nncf_ext.numerics.decoded`; None for what the kernel does not serve. Differentiable once."""
    if (
        in_transform()
        or not native.serves(x, centroids)
        or codes.dtype is not torch.int32
        or not (x.is_contiguous() and codes.is_contiguous())
    ):
        return None
    with without_function_modes():
        return _Decoded.apply(x, codes, centroids)


class _Decoded(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, centroids: Tensor) -> Tensor:
        ctx.save_for_backward(x, codes)
        ctx.levels = centroids.numel() + 1
        table, y, size = torch.cat([centroids.new_zeros(1), centroids]), torch.empty_like(x), x.numel()
        pointers = x.data_ptr(), codes.data_ptr(), table.data_ptr(), y.data_ptr()
        native.run("decoded_forward", native.parts(size), *pointers, ctx.levels, size)
        return y

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, codes = ctx.saved_tensors
        g, dx, size = g.contiguous(), torch.empty_like(x), x.numel()
        parts = native.parts(size)
        sums = torch.zeros(parts, _LANES, ctx.levels, dtype=torch.float64)
        pointers = g.data_ptr(), x.data_ptr(), codes.data_ptr(), dx.data_ptr(), sums.data_ptr()
        native.run("decoded_backward", parts, *pointers, ctx.levels, size)
        return dx, None, sums.sum((0, 1))[1:].to(g.dtype)
