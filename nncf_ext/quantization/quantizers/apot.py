"""Levels that are sums of powers of two (additive powers-of-two quantization, APoT, Li et al. 2020): dense around zero."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.edits import Observer, ObserverSpec, Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.quantization.quantizers.uniform import QuantizerSpec, QuantizerTransform, at_least

# By the bits of a magnitude: for each term of the sum, the exponents e of the powers 2^-e that it may be, beside zero (eq. 5 with
# two bits a term; where the bits are odd, one term has one bit).
_TERMS: Mapping[int, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {1: ((1,),), 2: ((1, 2, 3),), 3: ((1, 2, 4), (3,)), 4: ((1, 3, 5), (2, 4, 6))}
)
_START = 3  # standard deviations of the weights within the first bounds, as in the authors' code


class APoT(QuantizerTransform):
    """a * q, q the level nearest to w / a (of two, the smaller magnitude), w cut at -+a. Levels: sums of powers of two over the
    largest of them, and their negatives: {0, +-1/4, +-1/2, +-1} with 3 bits.

    Gradients (eq. 8): dw = 1 inside of -+a, 0 outside; da = q - w/a inside, the sign outside. a > 0 starts at 3 standard
    deviations. The weights are not normalised before, as in the paper. Every level is a whole number of steps below 50, so files
    have int8 weights. Variable: `scale`, a, of which the magnitude counts.
    """

    kind: Literal["apot"] = "apot"
    bits_are_free: ClassVar[bool] = False
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    symmetric: ClassVar[bool] = True
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("symmetric",), "bits": (2, 3, 4, 5), "signed": (True,)}
    )

    bits: Literal[2, 3, 4, 5]
    channel_axis: int | None = None

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls.model_validate({"bits": spec.bits, "channel_axis": spec.channel_axis})

    @classmethod
    def missing(cls, asked: Mapping[str, Any]) -> str | None:
        return '"bits": 2, 3, 4 or 5' if asked.get("bits") is None else None

    @property
    def description(self) -> str:
        return f"int{self.bits} sums of powers of two per {'tensor' if self.channel_axis is None else 'channel'}"

    @cached_property
    def magnitudes(self) -> tuple[int, ...]:
        """The levels from zero on, ascending, in steps of the smallest power."""
        terms = _TERMS[self.bits - 1]
        most = max(max(term) for term in terms)
        return tuple(sorted({sum(each) for each in product(*([0, *(2 ** (most - e) for e in term)] for term in terms))}))

    def observer(self, spec: ObserverSpec) -> Observer | None:
        return RangeCollector(spec, self.channel_axis, True, keeps_values=True)

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        size = self.variable_shape(shape)
        scale = np.ones(size, np.float32)
        if seen is not None and seen.values is not None:
            scale = at_least(_START * seen.values.std(1)).reshape(size)
        return self, {"scale": Var(scale, trainable=True)}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        highest = self.magnitudes[-1]
        step = (xp.abs(variables["scale"]) + numerics.SMALLEST) / highest
        return Grid(step * -highest, step, 2 * highest, cuts=True, zero=highest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        highest = self.magnitudes[-1]
        step = self.encoded(xp, variables).step
        x0, step0 = xp.stop_gradient(x), xp.stop_gradient(step)
        v = x0 / step0
        size, level = xp.abs(v), xp.zeros_like(v)
        for below, above in zip(self.magnitudes[:-1], self.magnitudes[1:], strict=True):
            level = level + (above - below) * xp.cast_like(size > (below + above) / 2, v)
        level = xp.where(v < 0, -level, level)
        inside = x + (step - step0) * (level - v)
        return numerics.straight_through(xp, level * step0, xp.where(size <= highest, inside, step * level))
