"""Quantizers as PyTorch's own fake-quantize operators, which its exporters and other converters know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nncf_ext.edits import Edit
from nncf_ext.quantization.quantizers.fixed import FixedQuantizer, affine
from nncf_ext_torch import xp
from nncf_ext_torch.torch_private import is_tracing, tracing_paused


def is_exporting() -> bool:
    """Whether operators are recorded for somebody who is to know them: `torch.export`, `torch.onnx`, `torch.jit.trace`."""
    return torch.compiler.is_exporting() if torch.compiler.is_compiling() else is_tracing()


class _Operator(NamedTuple):
    """scale, zero_point: of one axis. axis: None for one scale. ends: what values are clipped to before, or None."""

    scale: Tensor
    zero_point: Tensor
    axis: int | None
    codes: tuple[int, int]
    ends: tuple[Tensor, Tensor] | None

    def __call__(self, x: Tensor) -> Tensor:
        if self.ends is not None:
            x = torch.minimum(torch.maximum(x, self.ends[0]), self.ends[1])
        wide = x if x.dtype == torch.float32 else x.float()
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(wide, self.scale, self.zero_point, *self.codes)
        return torch.fake_quantize_per_channel_affine(wide, self.scale, self.zero_point, self.axis, *self.codes)


def operators_of(edit: Edit, x: Tensor, variables: Mapping[str, Any]) -> Tensor:
    """The edit in inference, a quantizer with PyTorch's own operator where that has its grid.

    The operator multiplies by 1/scale where the quantizer divides: about one value in 100 000 is rounded to the other neighbour.
    A weight is rounded before, and the operator changes nothing.
    """
    if torch.compiler.is_compiling():
        operator = _operator(edit, variables)
    else:
        with _constants():
            operator = _operator(edit, variables)
    if operator is None:
        return edit.apply(xp, x, variables, False)
    return operator(_rounded(edit, x, variables) if edit.site.is_parameter else x)


def _rounded(edit: Edit, weight: Tensor, variables: Mapping[str, Any]) -> Tensor:
    if isinstance(edit.transform, FixedQuantizer):  # of a stripped model: they are
        return weight
    if torch.compiler.is_compiling():
        return edit.apply(xp, weight, variables, False)
    with _constants():
        difference = edit.apply(xp, weight, variables, False) - weight
    # An operator on constants alone would be folded, and OpenVINO does not fold the arithmetic of the quantizer.
    return weight + difference


def _operator(edit: Edit, variables: Mapping[str, Any]) -> _Operator | None:
    of_weight = edit.site.is_parameter
    found = affine(xp, edit.transform, variables, of_weight)
    if found is None:
        return None
    scale = found.scale if isinstance(found.scale, Tensor) else torch.as_tensor(found.scale)
    scale = scale.detach().float() if scale.requires_grad or scale.dtype != torch.float32 else scale
    zero = found.zero_point
    if isinstance(zero, int):
        zero = torch.full_like(scale, zero, dtype=torch.int32)
    elif zero.dtype != torch.int32:
        zero = zero.detach().to(torch.int32)
    axis = None if scale.numel() == 1 else max(range(scale.ndim), key=lambda axis: scale.shape[axis])
    ends = found.ends if found.clips and not of_weight else None
    return _Operator(scale.reshape(-1), zero.reshape(-1), axis, found.codes, ends)


@contextmanager
def _constants() -> Iterator[None]:
    """What is computed here is a constant of the graph that `torch.jit.trace` makes."""
    with tracing_paused(), torch.no_grad():
        yield
