"""What a transform's values are, where they are more than floating-point numbers: what files store in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

FloatFormat = Literal["float8_e4m3fn", "float8_e5m2"]
LARGEST: Mapping[FloatFormat, float] = MappingProxyType({"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0})


@dataclass(frozen=True)
class Grid:
    """The numbers a quantizer can represent: low + k * step, k = 0..intervals. Arrays in the quantizer's broadcastable shape.

    block: how many elements of a weight that follow each other share a step; then the arrays have the weight's shape.
    cuts: values beyond the ends are common.
    zero: the k of the value zero where it is known without a division, an int where the settings alone say it.
    """

    low: Any
    step: Any
    intervals: int
    block: int | None = None
    cuts: bool = False
    zero: Any = None


@dataclass(frozen=True)
class FloatGrid:
    """The numbers of an 8-bit format times `scale`; None for a weight's own largest magnitude over the format's, by
    `channel_axis`."""

    format: FloatFormat
    scale: Any
    channel_axis: int | None = None

    @property
    def largest(self) -> float:
        return LARGEST[self.format]

    def scale_of(self, xp: Any, x: Any) -> Any:
        """The scale for a tensor, in broadcastable shape."""
        if self.scale is not None:
            return self.scale
        rank = len(x.shape)
        kept = None if self.channel_axis is None else self.channel_axis % rank
        largest = xp.max(xp.abs(x), axis=tuple(a for a in range(rank) if a != kept), keepdims=True)
        return xp.maximum(largest, 1e-30) / self.largest


@dataclass(frozen=True)
class ProductCodes:
    """Sub-vectors of a weight along `axis` by their numbers in code books; codes below zero: there are none yet.

    codebook: (M, K, d), where M * d is the size of the axis. codes: (M, all other axes in their order, flattened).
    """

    codebook: Any
    codes: Any
    axis: int


Encoding = Grid | FloatGrid | ProductCodes
