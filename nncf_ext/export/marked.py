"""What an adapter hands to the common export pass: a float ONNX graph with one marker node per quantizer, and its grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from nncf_ext import numerics, numpy_xp
from nncf_ext.encodings import FloatGrid, Grid

DOMAIN, MARKER = "nncf_ext", "Quantizer"


@dataclass(frozen=True)
class Levels(Grid):
    """A quantizer's grid in numpy, as `numerics.fake_quantize` takes it, for a tensor of the same rank: step > 0.

    rounded: what the quantizer makes of a weight, where it does more than round to the grid (a tanh before it, levels that are
    left out).
    """

    rounded: Callable[[np.ndarray], np.ndarray] | None = None

    @cached_property
    def zero_code(self) -> np.ndarray:
        """The k of the value zero."""
        return np.asarray(numerics.zero_point(numpy_xp, np.asarray(self.low), np.asarray(self.step))).astype(np.int64)

    @property
    def is_symmetric(self) -> bool:
        """As many levels below zero as above it, but for at most one."""
        return bool(np.all((self.zero_code == self.intervals // 2) | (self.zero_code == (self.intervals + 1) // 2)))

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Signed integers q with fake_quantize(x) == q * step, bit for bit."""
        x = x if self.rounded is None else self.rounded(x)
        codes = numerics.quantize_codes(numpy_xp, x, self.low, self.step, self.intervals)
        return np.asarray(codes).astype(np.int64) - self.zero_code


@dataclass(frozen=True)
class FloatLevels(FloatGrid):
    """The same of a floating-point format."""

    def codes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the format as float32, scale)."""
        scale = np.asarray(self.scale_of(numpy_xp, x), np.float32)
        return numpy_xp.rounded_to(np.clip(x / scale, -self.largest, self.largest), self.format), scale

    @property
    def type(self) -> ir.DataType:
        return ir.DataType[self.format.replace("_", "").upper()]


def is_marker(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == MARKER


def key_of(marker: ir.Node) -> str:
    return marker.attributes["key"].as_string()


def marker(x: ir.Value, key: str, axis: int | None = None) -> ir.Node:
    """The node that stands for the quantizer of the edit `key`. One float tensor in, one out. axis: of the channels, where the
    exporter may have changed the order of axes."""
    return ir.node(MARKER, [x], {"key": key} if axis is None else {"key": key, "axis": axis}, domain=DOMAIN, version=1)


def grid_of(node: ir.Node, grids: Mapping[str, Levels | FloatLevels]) -> Levels | FloatLevels:
    """KeyError in words where the plan has no such quantizer."""
    key = key_of(node)
    if key not in grids:
        raise KeyError(f"the exported graph has a quantizer {key!r}, for which no grid was given")
    return grids[key]
