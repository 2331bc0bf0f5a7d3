"""Three and four levels that use the whole range of the weights (stretched elastic quantization, ParetoQ, Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.edits import Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.quantization.quantizers.lsq import gradient_scale
from nncf_ext.quantization.quantizers.uniform import QuantizerSpec, QuantizerTransform, at_least

_END = 0.99  # values are cut there before rounding, so that the outermost level is that of the last interval


class StretchedElastic(QuantizerTransform):
    """Weights on the middles of equal intervals of -a..a: {0, +-2/3} a with three levels, {+-1/4, +-3/4} a with four.

    With v = w / a cut at +-0.99 and q its level: dw = 1 inside, 0 outside; da = g * (q - v) inside, g * q outside, which is the
    exact derivative (ParetoQ's code takes 1 in the place of 2/3 there). g = 1/sqrt(N), N weights that share a; a > 0 starts at
    max|w|. Variable: `scale`, of which the magnitude counts.
    """

    kind: Literal["stretched_elastic"] = "stretched_elastic"
    bits_are_free: ClassVar[bool] = False
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    symmetric: ClassVar[bool] = True
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("symmetric",), "bits": (2,), "levels": (3, 4), "signed": (True,)}
    )

    bits: int = 2
    levels: Literal[3, 4]
    channel_axis: int | None = None
    elements: int

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        levels: Literal[3, 4] = 3 if spec.levels == 3 else 4
        return cls(levels=levels, channel_axis=spec.channel_axis, elements=spec.elements)

    @classmethod
    def missing(cls, asked: Mapping[str, Any]) -> str | None:
        is_known = {asked.get("bits"), asked.get("levels")} in ({2, None}, {3, None}, {4, None}, {2, 4})
        return None if is_known else '"levels": 3 or "bits": 2'

    @property
    def description(self) -> str:
        return f"{self.levels} levels, stretched, per {'tensor' if self.channel_axis is None else 'channel'}"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        size = self.variable_shape(shape)
        if seen is None:
            return self, {"scale": Var(np.ones(size, np.float32), trainable=True)}
        scale = at_least(np.maximum(np.abs(seen.low), np.abs(seen.high)))
        return self, {"scale": Var(scale.reshape(size), trainable=True)}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        highest, unit = (1, 2 / 3) if self.levels == 3 else (3, 1 / 4)
        step = (xp.abs(variables["scale"]) + numerics.SMALLEST) * unit
        return Grid(step * -highest, step, 2 * highest, zero=highest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        scale = numerics.scale_gradient(xp, variables["scale"], gradient_scale(self.elements, 1))
        grid = self.encoded(xp, {"scale": scale})
        unit = 2 / 3 if self.levels == 3 else 1 / 4
        x0, step, step0 = xp.stop_gradient(x), grid.step, xp.stop_gradient(grid.step)
        v = x0 / (step0 / unit)
        cut = xp.clip(v, -_END, _END)
        code = xp.round(cut * 1.5) if self.levels == 3 else 2 * xp.round(cut * 2 - 0.5) + 1
        inside = x + (step - step0) * (code - v / unit)
        return numerics.straight_through(xp, code * step0, xp.where(cut == v, inside, step * code))
