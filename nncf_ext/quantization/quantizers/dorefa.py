"""Levels between fixed bounds (DoReFa-Net, Zhou et al. 2016), for two bits and more; `binarization` has its single bit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.edits import Observer, ObserverSpec, Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.quantization.quantizers.uniform import QuantizerSpec, QuantizerTransform, UniformQuantizer


class DoReFaWeight(QuantizerTransform):
    """2 * round(n * (tanh(w) / (2 max|tanh(w)|) + 1/2)) / n - 1 with n = 2^bits - 1 (eq. 9), of the whole tensor.

    Its levels are the odd multiples of 1/n: zero is none of them. dw = (1 - tanh(w)^2) / max|tanh(w)|, with the maximum as a
    constant.
    """

    kind: Literal["dorefa_weight"] = "dorefa_weight"
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    symmetric: ClassVar[bool] = True
    channel_axis: ClassVar[None] = None
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("symmetric",), "per_channel": (False,), "signed": (True,)}
    )

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(bits=spec.bits)

    def observer(self, spec: ObserverSpec) -> Observer | None:
        return None

    @property
    def description(self) -> str:
        return f"int{self.bits} of tanh per tensor, no zero"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        n = 2**self.bits - 1
        step = np.float32(1) / np.float32(n)
        return Grid(-n * step, step, 2 * n, zero=n)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        n = 2**self.bits - 1
        squashed = xp.tanh(x)
        share = squashed / (xp.stop_gradient(xp.max(xp.abs(squashed))) + numerics.SMALLEST)
        codes = 2 * xp.round((xp.stop_gradient(share) / 2 + 0.5) * n) - n
        return numerics.straight_through(xp, codes * float(np.float32(1) / np.float32(n)), share)


class DoReFaActivation(UniformQuantizer):
    """round(n * clip(x, 0, 1)) / n with n = 2^bits - 1 (eq. 10 and 11); dx = [0 <= x <= 1].

    Where values are negative (signed), clip(x, -1, 1) and n = 2^(bits-1) - 1.
    """

    kind: Literal["dorefa"] = "dorefa"
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("symmetric",), "per_channel": (False,)}
    )

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(bits=spec.bits, symmetric=True, signed=spec.signed, learned=False)

    @property
    def levels(self) -> tuple[int, int]:
        highest = 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1
        return -highest if self.signed else 0, highest

    @property
    def description(self) -> str:
        return f"{super().description}, cut at 1"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self.known(seen), {}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        lowest, highest = self.levels
        step = np.float32(1) / np.float32(highest)
        return Grid(lowest * step, step, highest - lowest, cuts=True, zero=-lowest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        lowest, highest = self.levels
        step = float(np.float32(1) / np.float32(highest))
        x0 = xp.stop_gradient(x)
        inside = (x0 >= min(lowest, 0) / highest) & (x0 <= 1)
        value = xp.clip(xp.round(x0 / step), lowest, highest) * step
        return numerics.straight_through(xp, value, xp.where(inside, x, xp.zeros_like(x)))
