"""Activations cut at a learned level (PACT, Choi et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.edits import Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.quantization.quantizers.uniform import QuantizerSpec, QuantizerTransform, UniformQuantizer, at_least


class PACT(UniformQuantizer):
    """clip(x, 0, a), rounded to 2^bits levels; dx = [0 <= x < a], da = [x >= a]: rounding inside says nothing about a.

    Where values are negative (signed), clip(x, -a, a) with one level fewer and da = [x >= a] - [x < -a]. a starts at the end of
    the range that was seen. Variable: `clip`, of which the magnitude counts.
    """

    kind: Literal["pact"] = "pact"
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("symmetric",), "per_channel": (False,)}
    )

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(bits=spec.bits, symmetric=True, signed=spec.signed, learned=spec.learned)

    @property
    def levels(self) -> tuple[int, int]:
        highest = 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1
        return -highest if self.signed else 0, highest

    @property
    def description(self) -> str:
        return f"{super().description}, learned clipping"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        known = self.known(seen)
        size = self.variable_shape(shape)
        if seen is None:
            return known, {"clip": Var(np.ones(size, np.float32), trainable=bool(known.learned))}
        clip = np.asarray(seen.high, np.float32)
        if known.signed:
            clip = np.maximum(clip, -np.asarray(seen.low, np.float32))
        return known, {"clip": Var(at_least(clip).reshape(size), trainable=bool(known.learned))}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        lowest, highest = self.levels
        ends = numerics.symmetric_grid(xp, variables["clip"], lowest, highest)
        return Grid(*ends, highest - lowest, cuts=True, zero=-lowest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        clip = xp.abs(variables["clip"])
        x0, clip0 = xp.stop_gradient(x), xp.stop_gradient(clip)
        value = numerics.fake_quantize_symmetric(xp, x0, clip0, *self.levels)
        lower = -clip if self.signed else xp.zeros_like(clip)
        return numerics.straight_through(xp, value, xp.where(x0 >= clip0, clip, xp.where(x0 < xp.stop_gradient(lower), lower, x)))
