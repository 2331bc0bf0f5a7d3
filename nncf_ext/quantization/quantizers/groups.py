"""Weights of matrix products with a scale for every group of inputs of an output (int4 and the like)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.edits import Observer, ObserverSpec, Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.quantization.quantizers.uniform import QuantizerSpec, QuantizerTransform, at_least


class GroupQuantizer(QuantizerTransform):
    """`NNCFQuantizer` with bounds for every `group_size` neighbours along the input axis of a matrix, in every output.

    axis: of the inputs, 0 or 1. Variables `scale`, or `low` and `span`, have the weight's shape with groups for inputs.
    """

    kind: Literal["group_quantizer"] = "group_quantizer"
    bits_are_free: ClassVar[bool] = False
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"levels": (), "logarithm_scale": (False,), "per_channel": (True,), "signed": (True,)}
    )

    symmetric: bool
    group_size: int
    axis: int

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        assert spec.group_size is not None and spec.input_axis is not None
        return cls(bits=spec.bits, symmetric=spec.symmetric, group_size=spec.group_size, axis=spec.input_axis)

    @property
    def description(self) -> str:
        return f"int{self.bits} {'symmetric' if self.symmetric else 'asymmetric'} per group of {self.group_size} inputs"

    @property
    def granularity(self) -> str:
        return "per-group"

    @property
    def levels(self) -> tuple[int, int]:
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.symmetric else (0, 2**self.bits - 1)

    def observer(self, spec: ObserverSpec) -> Observer | None:
        return _ByGroup(spec, 0, self.symmetric, of=self)

    def grouped(self, x: np.ndarray) -> np.ndarray:
        """(groups of all outputs, values of each)."""
        grouped = x.reshape(self._grouped(x.shape))
        return np.moveaxis(grouped, self.axis + 1, -1).reshape(-1, self.group_size)

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        size = tuple(n // self.group_size if axis == self.axis else n for axis, n in enumerate(shape))
        ones = np.ones(size, np.float32)
        low, high = (-ones, ones) if seen is None else (np.asarray(end).reshape(size) for end in (seen.low, seen.high))
        if self.symmetric:
            return self, {"scale": Var(at_least(np.maximum(np.abs(low), np.abs(high))), trainable=True)}
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        return self, {"low": Var(low.astype(np.float32), trainable=True), "span": Var(at_least(high - low), trainable=True)}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        """Of numpy arrays: in the weight's shape."""
        grid = self._grid(xp, variables)
        low, step = (
            np.repeat(np.asarray(end).squeeze(self.axis + 1), self.group_size, self.axis) for end in (grid.low, grid.step)
        )
        return Grid(low, step, grid.intervals, self.group_size)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        shape = tuple(x.shape)
        grid = self._grid(xp, variables)
        y = numerics.fake_quantize(xp, xp.reshape(x, self._grouped(shape)), grid.low, grid.step, grid.intervals)
        return xp.reshape(y, shape)

    def _grid(self, xp: Any, variables: Any) -> Grid:
        """In the shape of the grouped weight, with one in the place of a group's values."""
        lowest, highest = self.levels
        intervals = highest - lowest
        single = {}
        for name, value in variables.items():
            shape = tuple(value.shape)
            single[name] = xp.reshape(value, (*shape[: self.axis + 1], 1, *shape[self.axis + 1 :]))
        if self.symmetric:
            return Grid(*numerics.symmetric_grid(xp, single["scale"], lowest, highest), intervals)
        span = xp.abs(single["span"]) + numerics.SMALLEST
        low, span = numerics.grid_through_zero(xp, single["low"], span, intervals)
        return Grid(low, span / intervals, intervals)

    def _grouped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        a = self.axis
        return (*shape[:a], shape[a] // self.group_size, self.group_size, *shape[a + 1 :])


class _ByGroup(RangeCollector):
    """Every group is a channel."""

    def __init__(self, *settings: Any, of: GroupQuantizer):
        super().__init__(*settings)
        self._of = of

    def update(self, x: np.ndarray) -> None:
        super().update(self._of.grouped(x))
