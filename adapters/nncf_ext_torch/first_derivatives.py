"""Backward passes of kernels, which have none of their own: a second derivative is refused instead of being zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Backward = Callable[..., Any]


def first_derivative(backward: Backward) -> Backward:
    """`backward` of an autograd function as one that raises a RuntimeError where its results are differentiated.

    torch's `once_differentiable` does that too, but for the gradients that come in alone: by the tensors of the forward pass it
    gives no derivative, without a word.
    """
    once = once_differentiable(backward)

    def derivative(ctx: Any, *gradients: Any) -> Any:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # it is enabled by create_graph alone
            return once(ctx, *gradients)
        with torch.no_grad():
            found = backward(ctx, *gradients)
        of = (*gradients, *ctx.saved_tensors, *vars(ctx).values())
        sources = [tensor for tensor in of if isinstance(tensor, Tensor) and tensor.requires_grad]
        together = found if isinstance(found, tuple) else (found,)
        marked = tuple(g if g is None or not sources else _NotTwice.apply(g, *sources) for g in together)
        return marked if isinstance(found, tuple) else marked[0]

    return derivative


class _NotTwice(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *sources: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            "compressed layers can be differentiated twice where the forward pass is inside of `with twice_differentiable():` "
            "(nncf_ext_torch), which is slower"
        )
