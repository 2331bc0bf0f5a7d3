"""What an adapter hands to the common export pass: a float ONNX graph with one marker node per quantizer, and its grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from nncf_ext import numerics, reference

DOMAIN, MARKER = "nncf_ext", "Quantizer"


@dataclass(frozen=True)
class Grid:
    """The levels of one quantizer: low + k * step, k = 0..intervals, as `numerics.fake_quantize` takes them.

    low, step: float arrays of the quantized tensor's rank in the framework (all ones but for the channels), step > 0.
    """

    low: np.ndarray
    step: np.ndarray
    intervals: int

    @cached_property
    def zero(self) -> np.ndarray:
        """Integer code of the value zero."""
        return np.asarray(numerics.zero_point(reference, np.asarray(self.low), np.asarray(self.step))).astype(np.int64)

    @property
    def is_symmetric(self) -> bool:
        """As many levels below zero as above it, but for at most one."""
        return bool(np.all((self.zero == self.intervals // 2) | (self.zero == (self.intervals + 1) // 2)))

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Signed integers q with fake_quantize(x) == q * step, bit for bit."""
        return np.asarray(numerics.quantize_codes(reference, x, self.low, self.step, self.intervals)).astype(np.int64) - self.zero


def is_marker(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == MARKER


def key_of(marker: ir.Node) -> str:
    return marker.attributes["key"].as_string()


def marker(x: ir.Value, key: str) -> ir.Node:
    """The node that stands for the quantizer of the edit `key`. One float tensor in, one out."""
    return ir.node(MARKER, [x], {"key": key}, domain=DOMAIN, version=1)


def grid_of(node: ir.Node, grids: Mapping[str, Grid]) -> Grid:
    """KeyError in words where the plan has no such quantizer."""
    key = key_of(node)
    if key not in grids:
        raise KeyError(f"the exported graph has a quantizer {key!r}, for which no grid was given")
    return grids[key]
