"""Quantizers as the frameworks' own operators have them: codes of 8 bits with a scale and a zero point. What a model keeps of
its quantizers when it is stripped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.edits import QUANTIZE, Edit, Transform, Var
from nncf_ext.encodings import Grid


@dataclass(frozen=True)
class Affine:
    """x -> (code - zero_point) * scale with code = clip(round(x / scale) + zero_point, lowest, highest).

    scale: an array in the quantizer's broadcastable shape. zero_point: a whole number, or an array of them of that shape.
    """

    scale: Any
    zero_point: Any
    lowest: int
    highest: int

    @property
    def codes(self) -> tuple[int, int]:
        """The ends of the operators' own codes: of int8 or uint8."""
        return (-128, 127) if self.lowest < 0 else (0, 255)

    @property
    def clips(self) -> bool:
        """Whether values are to be clipped before such an operator, which has more codes."""
        return (self.lowest, self.highest) != self.codes

    @property
    def ends(self) -> tuple[Any, Any]:
        """The values of the lowest and the highest code."""
        return (self.lowest - self.zero_point) * self.scale, (self.highest - self.zero_point) * self.scale


def affine(xp: Any, transform: Transform, variables: Mapping[str, Any], of_weight: bool) -> Affine | None:
    """A quantizer as `Affine`; None for one that this cannot say: floating point, more than 8 bits, scales by group, binary.

    Weights are int8 with the zero point 0 wherever that is known to hold them; activations are always uint8 (a signed grid has
    the zero point 128), because ONNX Runtime keeps operators of int8 activations in floating point.
    """
    if isinstance(transform, FixedQuantizer):
        return Affine(variables["scale"], variables["zero_point"], transform.lowest, transform.highest)
    grid = transform.encoded(xp, variables)
    if not isinstance(grid, Grid) or grid.block is not None or grid.intervals > 255:
        return None
    if sum(size != 1 for size in grid.step.shape) > 1:
        return None
    zero = grid.zero
    if not isinstance(zero, int):
        return Affine(grid.step, numerics.zero_point(xp, grid.low, grid.step) if zero is None else zero, 0, grid.intervals)
    if of_weight and 0 < zero <= 128 and grid.intervals - zero <= 127:
        return Affine(grid.step, 0, -zero, grid.intervals - zero)
    point = max(zero, 0)
    highest = grid.intervals - zero + point
    return Affine(grid.step, point, point - zero, highest) if highest <= 255 else None


class FixedQuantizer(Transform):
    """`Affine` whose numbers no longer change. Variables: `scale`, `zero_point`."""

    kind: Literal["fixed_quantizer"] = "fixed_quantizer"
    stage: ClassVar[int] = QUANTIZE
    lowest: int
    highest: int
    channel_axis: int | None = None

    def encoded(self, xp: Any, variables: Mapping[str, Any]) -> Grid:
        scale, point = variables["scale"], variables["zero_point"]
        zero = -self.lowest if self.lowest else point  # no zero point but 0 with codes that do not begin at 0
        low = (self.lowest - xp.cast_like(point, scale)) * scale
        return Grid(low, scale, self.highest - self.lowest, cuts=True, zero=zero)

    def calibrate(self, shape: tuple[int, ...], seen: Any) -> tuple[Transform, dict[str, Var]]:
        size = tuple(n if axis == self.channel_axis else 1 for axis, n in enumerate(shape))
        return self, {"scale": Var(np.ones(size, np.float32)), "zero_point": Var(np.zeros(size, np.int32))}

    def apply(self, xp: Any, x: Any, variables: Mapping[str, Any], training: bool) -> Any:
        grid = self.encoded(xp, variables)
        return numerics.fake_quantize(xp, x, grid.low, grid.step, grid.intervals)


def fixed(
    edit: Edit, xp: Any, variables: Mapping[str, Any], to_numpy: Callable[[Any], np.ndarray]
) -> tuple[Edit, dict[str, Var]] | None:
    """What a stripped model keeps of an edit that is on, with its variables; None for nothing.

    variables: the edit's present ones, arrays of `xp`. Weights are rounded by then: theirs is kept where it is `Affine`, and
    changes nothing. A quantizer of activations that is not (float8, binary) stays what it is.
    """
    transform, of_weight = edit.transform, edit.site.is_parameter
    if transform.stage != QUANTIZE:
        return None
    found = affine(xp, transform, variables, of_weight)
    if found is None:
        return None if of_weight else (edit, {name: Var(to_numpy(value)) for name, value in variables.items()})
    scale, point = (np.asarray(to_numpy(xp.asarray(array))) for array in (found.scale, found.zero_point))
    scale = scale.astype(np.float32)
    axis = int(np.argmax(scale.shape)) if scale.size > 1 else None
    kept = FixedQuantizer(lowest=found.lowest, highest=found.highest, channel_axis=axis)
    values = {"scale": Var(scale), "zero_point": Var(np.broadcast_to(point, scale.shape).astype(np.int32))}
    return Edit(edit.sites, kept, edit.algorithm, operators=edit.operators), values
