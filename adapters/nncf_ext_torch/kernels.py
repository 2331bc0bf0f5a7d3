"""`nncf_ext.numerics.fake_quantize` for torch: the compiled kernel where there is one, a few ATen operators elsewhere.

Both give the values of `fake_quantize_composite` and its gradients by x exactly. float32 on CPU runs compiled: one pass each
way. All other tensors, and `torch.compile` (Inductor makes one loop of it), take the ATen form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from nncf_ext_torch import native

aten = torch.ops.aten  # not torch.*: under torch.compile an adapter's function mode counts those as the model's own operators

MAX_INTERVALS = 1 << 21  # the kernel rounds exactly up to 2**22


def fake_quantize(x: Tensor, low: Tensor, step: Tensor, intervals: int) -> Tensor:
    """See `nncf_ext.numerics.fake_quantize`; the result has the dtype of `x`. Differentiable once.

    For the backward pass the compiled kernel keeps x if that is a leaf (its memory is held anyway), else one byte per element
    in place of x: then each element's share of the gradient by `step` is off by at most 1/504 of its output gradient.
    """
    if torch.compiler.is_compiling():
        return _Aten.apply(x, low, step, intervals)
    with torch._C.DisableTorchFunction():
        axis = _channel_axis(x, low, step)
        if axis is None or intervals > MAX_INTERVALS or native.library() is None:
            return _Aten.apply(x, low, step, intervals)
        if torch.is_grad_enabled() and (x.requires_grad or low.requires_grad or step.requires_grad):
            return _Native.apply(x, low, step, intervals, axis, x.is_leaf)
        return _forward(_dense(x), None, low, step, intervals, axis)


def _channel_axis(x: Tensor, low: Tensor, step: Tensor) -> int | None:
    """The axis along which the grid varies, -1 if it does not; None if the kernel does not serve these tensors."""
    for tensor in (x, low, step):
        plain = type(tensor) is Tensor or type(tensor) is Parameter
        if not (plain and tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided):
            return None
    shape = low.shape
    if shape != step.shape or not (low.is_contiguous() and step.is_contiguous()) or x.numel() == 0:
        return None
    if low.numel() == 1:
        return -1 if len(shape) <= x.ndim else None
    if len(shape) != x.ndim:
        return None
    axes = [axis for axis, length in enumerate(shape) if length != 1]
    return axes[0] if len(axes) == 1 and shape[axes[0]] == x.shape[axes[0]] else None


def _dense(x: Tensor) -> Tensor:
    """`x` in memory without gaps or overlaps, in whatever order of axes."""
    like = torch.empty_like(x)  # has the strides of x just if x is dense
    return x if like.stride() == x.stride() else like.copy_(x)


def _forward(x: Tensor, code: Tensor | None, low: Tensor, step: Tensor, intervals: int, axis: int) -> Tensor:
    kernels = native.library()
    y = torch.empty_like(x)
    size = x.numel()
    native.run(
        kernels.fake_quantize_forward,
        native.parts(size),
        x.data_ptr(),
        y.data_ptr(),
        None if code is None else code.data_ptr(),
        low.data_ptr(),
        step.data_ptr(),
        intervals,
        size,
        low.numel(),
        size if axis < 0 else x.stride(axis),
    )
    return y


class _Native(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, step: Tensor, intervals: int, axis: int, keep_x: bool) -> Tensor:
        x = _dense(x)
        code = None if keep_x else torch.empty_like(x, dtype=torch.int8)
        ctx.save_for_backward(x if keep_x else code, low, step)
        ctx.intervals, ctx.axis = intervals, axis
        return _forward(x, code, low, step, intervals, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved, low, step = ctx.saved_tensors
        size, channels = saved.numel(), low.numel()
        dx = torch.empty_like(saved, dtype=torch.float32)
        if g.stride() != dx.stride():
            g = torch.empty_like(dx).copy_(g)
        count = native.parts(size)
        sums = torch.empty((count, 2, *low.shape)) if ctx.needs_input_grad[1] or ctx.needs_input_grad[2] else None
        exact = saved.dtype is torch.float32
        native.run(
            native.library().fake_quantize_backward,
            count,
            g.data_ptr(),
            saved.data_ptr() if exact else None,
            None if exact else saved.data_ptr(),
            dx.data_ptr(),
            None if sums is None else sums.data_ptr(),
            low.data_ptr(),
            step.data_ptr(),
            ctx.intervals,
            size,
            channels,
            size if ctx.axis < 0 else saved.stride(ctx.axis),
        )
        if sums is None:
            return dx, None, None, None, None, None
        dlow, dstep = (sums[0] if count == 1 else sums.sum(0)).unbind(0)
        return dx, dlow, dstep, None, None, None


class _Aten(Function):
    """The same in ATen operators, few of them and in place: any dtype, any device, any broadcasting."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, step: Tensor, intervals: int) -> Tensor:
        ctx.save_for_backward(x, low, step)
        ctx.intervals = intervals
        first, last = _first_and_last(low, step, intervals)
        y = aten.round_.default(aten.div.Tensor(x, step))
        y = aten.clamp_max_.Tensor(aten.clamp_min_.Tensor(y, first), last)
        return (
            aten._to_copy.default(aten.mul_.Tensor(y, step), dtype=x.dtype) if y.dtype != x.dtype else aten.mul_.Tensor(y, step)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, low, step = ctx.saved_tensors
        first, last = _first_and_last(low, step, ctx.intervals)
        v = aten.div.Tensor(x, step)
        above, below = aten.gt.Tensor(v, last), aten.lt.Tensor(v, first)
        outside = aten.bitwise_or.Tensor(above, below)
        dx = aten.masked_fill.Scalar(g, outside, 0)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return dx, None, None, None
        residual = aten.sub_.Tensor(aten.round.default(v), v)
        residual = aten.masked_fill_.Scalar(aten.masked_fill_.Scalar(residual, below, 0), above, ctx.intervals)
        dstep = aten.mul.Tensor(residual, g)
        dlow = aten.mul.Tensor(outside, g)
        return dx, aten.sum_to_size.default(dlow, low.shape), aten.sum_to_size.default(dstep, step.shape), None


def _first_and_last(low: Tensor, step: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    first = aten.neg.default(aten.round.default(aten.div.Tensor(aten.neg.default(low), step)))
    return first, aten.add.Scalar(first, intervals)
