"""Learned step sizes (LSQ, Esser et al. 2020), and with a learned offset (LSQ+, Bhalgat et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics, numpy_xp
from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.edits import Observer, ObserverSpec, Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.quantization.quantizers.uniform import SMALLEST_SHARE, QuantizerSpec, QuantizerTransform, UniformQuantizer, at_least

_SHARES = 80  # shares of either end of the range that LSQ+ tries


def gradient_scale(elements: int, highest: int) -> float:
    """g = 1 / sqrt(N * Qp), which makes a step's gradient as large beside the step as those of its values are beside them
    (Esser et al. 2020, section 2.2). elements: N, the values of one sample that share the step."""
    return 1 / math.sqrt(elements * highest)


class _StepFromValues(UniformQuantizer):
    """The first step is made of values, not of their ends alone."""

    def observer(self, spec: ObserverSpec) -> Observer | None:
        return RangeCollector(spec, self.channel_axis, self.symmetric, keeps_values=True)


class LSQ(_StepFromValues):
    """round(clip(v, -Qn, Qp)) * s, v = x / s, with a learned step s > 0: ds = round(v) - v inside, -Qn or Qp outside, times g.

    elements: N of `gradient_scale`. start: how s starts. mean: 2 * mean|x| / sqrt(Qp) (LSQ); three_sigma: max(|mu - 3 sd|,
    |mu + 3 sd|) / 2^(bits-1) (LSQ+, for weights). Variable: `step`, of which the magnitude counts.
    """

    kind: Literal["lsq"] = "lsq"
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "symmetric"
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({**QuantizerTransform.takes, "mode": ("symmetric",)})

    elements: int
    start: Literal["mean", "three_sigma"] = "mean"

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(
            bits=spec.bits,
            symmetric=True,
            signed=spec.signed,
            channel_axis=spec.channel_axis,
            learned=spec.learned,
            elements=spec.elements,
        )

    @classmethod
    def of_lsq_plus(cls, spec: QuantizerSpec) -> QuantizerTransform:
        """For weights LSQ+ has another start, and nothing else."""
        return cls.at(spec).model_copy(update={"start": "three_sigma"})

    @property
    def description(self) -> str:
        return f"{super().description}, learned step"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        known = self.known(seen)
        highest, size = known.levels[1], self.variable_shape(shape)
        if seen is None or seen.values is None:
            step = np.full(size, 1 / highest, np.float32)
        elif self.start == "mean":
            step = 2 * np.abs(seen.values).mean(1) / math.sqrt(highest)
        else:
            mean, spread = seen.values.mean(1), 3 * seen.values.std(1)
            step = np.maximum(np.abs(mean - spread), np.abs(mean + spread)) / (highest + 1)
        return known, {"step": Var(at_least(step, floor=1e-8).reshape(size), trainable=bool(known.learned))}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        lowest, highest = self.levels
        ends = numerics.symmetric_grid(xp, variables["step"] * highest, lowest, highest)
        return Grid(*ends, highest - lowest, zero=-lowest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        lowest, highest = self.levels
        step = numerics.scale_gradient(xp, variables["step"], gradient_scale(self.elements, highest))
        return numerics.fake_quantize_symmetric(xp, x, step * highest, lowest, highest)


class LSQPlus(_StepFromValues):
    """round(clip(v, 0, n)) * s + b, v = (x - b) / s, with learned step and offset: db = 1 outside, 0 inside; ds = round(v) - v
    inside, 0 below, n above; both times g.

    The grid is shifted by less than a step so that zero is a level, as all grids here are: a padded zero stays zero, and the
    offset becomes an integer zero point. Variables: `step`, `offset`, which start where the squared error of the values seen is
    smallest: among the shares 1/80, 2/80, ..., 1 of either end of the range seen, zero being within it.
    """

    kind: Literal["lsq_plus"] = "lsq_plus"
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = "asymmetric"
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {**QuantizerTransform.takes, "mode": ("asymmetric",), "signed": ()}
    )

    elements: int

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(
            bits=spec.bits,
            symmetric=False,
            signed=False,
            channel_axis=spec.channel_axis,
            learned=spec.learned,
            elements=spec.elements,
        )

    @property
    def description(self) -> str:
        return f"{super().description}, learned step and offset"

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        known = self.known(seen)
        highest, size = known.levels[1], self.variable_shape(shape)
        if seen is None or seen.values is None:
            low, high = -np.ones(size, np.float32), np.ones(size, np.float32)
        else:
            pairs = [_least_squares_range(values, highest) for values in seen.values]
            low, high = (np.array(ends, np.float32).reshape(size) for ends in zip(*pairs, strict=True))
        learned = bool(known.learned)
        step = at_least((high - low) / highest, SMALLEST_SHARE, 1e-8)
        return known, {"step": Var(step, trainable=learned), "offset": Var(low, trainable=learned)}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        highest = self.levels[1]
        span = (xp.abs(variables["step"]) + numerics.SMALLEST) * highest
        low, span = numerics.grid_through_zero(xp, variables["offset"], span, highest)
        return Grid(low, span / highest, highest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        g = gradient_scale(self.elements, self.levels[1])
        grid = self.encoded(xp, {name: numerics.scale_gradient(xp, value, g) for name, value in variables.items()})
        return numerics.fake_quantize(xp, x, grid.low, grid.step, grid.intervals)


def _least_squares_range(values: np.ndarray, intervals: int) -> tuple[float, float]:
    """(low, high) of the grid that rounds `values` with the least squared error, by coordinate descent over the two ends."""
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.linspace(1 / _SHARES, 1, _SHARES)

    def error(low: float, high: float) -> float:
        span = np.full(1, max(high - low, 1e-6), np.float32)
        start, span = numerics.grid_through_zero(numpy_xp, np.full(1, low, np.float32), span, intervals)
        rounded = numerics.fake_quantize(numpy_xp, values, start, span / intervals, intervals)
        return float(np.square(rounded - values).sum())

    low, high = lowest, highest
    for _ in range(2):  # a third pass rarely changes a thing
        high = float(min(highest * shares, key=partial(error, low)))
        low = float(min(lowest * shares, key=lambda end, high=high: error(end, high)))
    return low, high
