"""Floating point numbers of 8 bits (Micikevicius et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.edits import Range, Transform, Var
from nncf_ext.encodings import LARGEST, FloatFormat, FloatGrid
from nncf_ext.quantization.quantizers.uniform import QuantizerSpec, QuantizerTransform, at_least


class Float8(QuantizerTransform):
    """scale * float8(clip(x / scale)): rounded to the nearest number, half to even, and cut at the largest one.

    scale = largest magnitude / largest number (448 for e4m3, 57344 for e5m2): a weight's present one, per channel or tensor; an
    activation's in the registered data, which stays. dx = 1 where |x / scale| is within the format, as all weights are.
    Variable, of activations: `scale`.
    """

    kind: Literal["float8"] = "float8"
    bits_are_free: ClassVar[bool] = False
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    symmetric: ClassVar[bool] = True
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("symmetric",), "bits": (8,), "signed": (True,)}
    )

    bits: int = 8
    format: FloatFormat
    of_weight: bool
    channel_axis: int | None = None

    @classmethod
    def e4m3(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(format="float8_e4m3fn", of_weight=spec.is_weight, channel_axis=spec.channel_axis)

    @classmethod
    def e5m2(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(format="float8_e5m2", of_weight=spec.is_weight, channel_axis=spec.channel_axis)

    @property
    def description(self) -> str:
        return f"{self.format.removesuffix('fn')} per {'tensor' if self.channel_axis is None else 'channel'}"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        if self.of_weight:
            return self, {}
        size = self.variable_shape(shape)
        if seen is None:
            return self, {"scale": Var(np.full(size, 1 / LARGEST[self.format], np.float32))}
        largest = at_least(np.maximum(np.abs(seen.low), np.abs(seen.high))).reshape(size)
        return self, {"scale": Var((largest / LARGEST[self.format]).astype(np.float32))}

    def encoded(self, xp: Any, variables: Any) -> FloatGrid:
        return FloatGrid(self.format, variables.get("scale"), self.channel_axis)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        x0 = xp.stop_gradient(x)
        scale = xp.stop_gradient(self.encoded(xp, variables).scale_of(xp, x0))
        v = x0 / scale
        cut = xp.clip(v, -LARGEST[self.format], LARGEST[self.format])
        inside = x if self.of_weight else xp.where(cut == v, x, xp.zeros_like(x))
        return numerics.straight_through(xp, xp.rounded_to(cut, self.format) * scale, inside)
