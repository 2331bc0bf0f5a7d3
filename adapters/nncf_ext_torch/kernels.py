"""Fake quantization (`nncf_ext.numerics`) for torch: the compiled kernel where there is one, a few ATen operators elsewhere.

Both give the values of `fake_quantize_composite` and its gradients by x exactly. float32 on CPU runs compiled: one pass each
way. All other tensors take the ATen form, and so does whatever watches operators go by: `torch.compile` (Inductor makes one loop
of them), `torch.export`, `torch.jit.trace`, dispatch modes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nncf_ext import numerics
from nncf_ext_torch import native
from nncf_ext_torch.first_derivatives import first_derivative
from nncf_ext_torch.saved_tensors import is_held, set_recompute
from nncf_ext_torch.torch_private import in_transform, is_tracing, to_copy, without_function_modes

aten = torch.ops.aten  # not torch.*: under torch.compile an adapter's function mode counts those as the model's own operators

MAX_INTERVALS = 1 << 21  # the kernel rounds exactly up to 2**22
WORTH_A_RECIPE = 1 << 16  # elements: below, computing them again costs more time than their memory is worth


def fake_quantize(x: Tensor, low: Tensor, step: Tensor, intervals: int) -> Tensor | None:
    """See `nncf_ext.numerics.fake_quantize`; the result has the dtype of `x`. Differentiable once.

    For the backward pass the compiled kernel keeps x if that is held anyway (a leaf, the result of a Relu), else one byte per
    element in place of x: then each element's share of the gradient by `step` is off by at most 1/504 of its output gradient.
    """
    if in_transform():
        return None
    axis = _axis_if_compiled(x, step, intervals, low)
    if axis is not None:
        return _native(x, low, step, 0, intervals, axis)
    return _in_aten(x, low, step, intervals)


def fake_quantize_symmetric(x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor | None:
    """See `nncf_ext.numerics.fake_quantize_symmetric`, and above."""
    if in_transform():
        return None
    axis = _axis_if_compiled(x, scale, highest - lowest)
    if axis is not None:
        return _native(x, None, scale, lowest, highest - lowest, axis)
    low, step = numerics.symmetric_grid(torch, scale, lowest, highest)
    if torch.compiler.is_exporting():  # ends that are numbers, not operators: OpenVINO does not fold those
        return aten.mul.Tensor(aten.clamp.default(aten.round.default(aten.div.Tensor(x, step)), lowest, highest), step)
    return _in_aten(x, low, step, highest - lowest)


def scale_gradient(x: Tensor, factor: float) -> Tensor | None:
    """See `nncf_ext.numerics.scale_gradient`: a view, and one pass backward. None while operators are recorded."""
    if torch.compiler.is_compiling() or is_tracing() or in_transform():
        return None
    with without_function_modes():
        return _ScaledGradient.apply(x, factor)


class _ScaledGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.factor, None


def _axis_if_compiled(x: Tensor, step: Tensor, intervals: int, low: Tensor | None = None) -> int | None:
    """The axis along which the grid varies, -1 if it does not; None if the compiled kernel does not serve this call."""
    if intervals > MAX_INTERVALS or not native.serves(x, step):
        return None
    shape = step.shape
    if not step.is_contiguous() or x.numel() == 0:
        return None
    if low is not None and not (native.serves(low) and low.shape == shape and low.is_contiguous()):
        return None
    if step.numel() == 1:
        return -1 if len(shape) <= x.ndim else None
    if len(shape) != x.ndim:
        return None
    axes = [axis for axis, length in enumerate(shape) if length != 1]
    return axes[0] if len(axes) == 1 and shape[axes[0]] == x.shape[axes[0]] else None


def _native(x: Tensor, low: Tensor | None, step: Tensor, lowest: int, intervals: int, axis: int) -> Tensor:
    with without_function_modes():
        learned = step.requires_grad or (low is not None and low.requires_grad)
        if torch.is_grad_enabled() and (learned or x.requires_grad):
            held = is_held(x)
            y: Tensor = _Native.apply(x, low, step, lowest, intervals, axis, held)
            if held and x.numel() >= WORTH_A_RECIPE:
                source = _dense(x.detach()), None, None if low is None else low.detach(), step.detach(), lowest, intervals, axis
                set_recompute(y, lambda: _forward(*source))
            return y
        return _forward(_dense(x), None, low, step, lowest, intervals, axis)


def _in_aten(x: Tensor, low: Tensor, step: Tensor, intervals: int) -> Tensor:
    if torch.compiler.is_compiling():
        return _Aten.apply(x, low, step, intervals)
    with without_function_modes():
        if is_tracing():  # it records operators, not autograd functions
            return _aten_forward(x, low, step, intervals)
        return _Aten.apply(x, low, step, intervals)


def _dense(x: Tensor) -> Tensor:
    """`x` in memory without gaps or overlaps, in whatever order of axes."""
    if x.is_contiguous():
        return x
    like = torch.empty_like(x)  # has the strides of x just if x is dense
    return x if like.stride() == x.stride() else like.copy_(x)


def _forward(x: Tensor, code: Tensor | None, low: Tensor | None, step: Tensor, lowest: int, intervals: int, axis: int) -> Tensor:
    y = torch.empty_like(x)
    size = x.numel()
    native.run(
        "fake_quantize_forward",
        native.parts(size),
        x.data_ptr(),
        y.data_ptr(),
        None if code is None else code.data_ptr(),
        None if low is None else low.data_ptr(),
        step.data_ptr(),
        lowest,
        intervals,
        size,
        step.numel(),
        size if axis < 0 else x.stride(axis),
    )
    return y


class _Native(Function):
    """low None: a symmetric grid, and `step` its scale."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor | None, step: Tensor, lowest: int, intervals: int, axis: int, keep_x: bool
    ) -> Tensor:
        x = _dense(x)
        code = None if keep_x else torch.empty_like(x, dtype=torch.int8)
        ctx.save_for_backward(x if keep_x else code, low, step)
        ctx.constants = lowest, intervals, axis
        return _forward(x, code, low, step, lowest, intervals, axis)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved, low, step = ctx.saved_tensors
        lowest, intervals, axis = ctx.constants
        size = saved.numel()
        dx = torch.empty_like(saved, dtype=torch.float32)
        if g.stride() != dx.stride():
            g = torch.empty_like(dx).copy_(g)
        count = native.parts(size)
        dlow = dstep = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dlow, dstep = (torch.empty_like(step) if count == 1 else step.new_empty((count, *step.shape)) for _ in range(2))
        exact = saved.dtype is torch.float32
        native.run(
            "fake_quantize_backward",
            count,
            g.data_ptr(),
            saved.data_ptr() if exact else None,
            None if exact else saved.data_ptr(),
            dx.data_ptr(),
            None if dlow is None else dlow.data_ptr(),
            None if dstep is None else dstep.data_ptr(),
            None if low is None else low.data_ptr(),
            step.data_ptr(),
            lowest,
            intervals,
            size,
            step.numel(),
            size if axis < 0 else saved.stride(axis),
        )
        if dlow is not None and dstep is not None and count > 1:
            dlow, dstep = dlow.sum(0), dstep.sum(0)
        return dx, None if low is None else dlow, dstep, None, None, None, None


class _Aten(Function):
    """The same in ATen operators, few of them and in place: any dtype, any device, any broadcasting."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, step: Tensor, intervals: int) -> Tensor:
        ctx.save_for_backward(x, low, step)
        ctx.intervals = intervals
        return _aten_forward(x, low, step, intervals)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, low, step = ctx.saved_tensors
        first, last = _first_and_last(low, step, ctx.intervals)
        v = aten.div.Tensor(x, step)
        above, below = aten.gt.Tensor(v, last), aten.lt.Tensor(v, first)
        dx = aten.where.ScalarSelf(aten.bitwise_or.Tensor(above, below), 0, g)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return dx, None, None, None
        greatest = torch.finfo(v.dtype).max
        v = aten.clamp_.default(v, -greatest, greatest)  # infinity - infinity would be NaN
        residual = aten.sub_.Tensor(aten.round.default(v), v)
        dlow = _sum_to(aten.sub.Tensor(g, dx), low)
        dstep = _sum_to(aten.mul_.Tensor(residual, dx), step)
        beyond = _sum_to(aten.where.ScalarOther(above, g, 0), step)
        return dx, dlow, aten.add.Tensor(dstep, beyond, alpha=ctx.intervals), None


def _aten_forward(x: Tensor, low: Tensor, step: Tensor, intervals: int) -> Tensor:
    first, last = _first_and_last(low, step, intervals)
    y = aten.round_.default(aten.div.Tensor(x, step))
    y = aten.mul_.Tensor(aten.clamp_max_.Tensor(aten.clamp_min_.Tensor(y, first), last), step)
    return to_copy(y, dtype=x.dtype) if y.dtype != x.dtype else y


def _first_and_last(low: Tensor, step: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    """The integers between which x / step may lie."""
    first = aten.neg.default(aten.round.default(aten.div.Tensor(aten.neg.default(low), step)))
    return first, aten.add.Scalar(first, intervals)


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """`x` summed to the shape of `like`, in its dtype if that is more precise."""
    return aten.sum_to_size.default(x if x.dtype == like.dtype else to_copy(x, dtype=like.dtype), like.shape)
