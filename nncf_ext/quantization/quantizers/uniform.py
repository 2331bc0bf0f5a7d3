"""What all quantizers have in common, and the one of NNCF 2.x: uniform levels between learned bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.edits import QUANTIZE, Observer, ObserverSpec, Range, Transform, Var
from nncf_ext.encodings import Grid

SMALLEST_SHARE = 0.01  # no channel's range is below this share of the widest channel's


@dataclass(frozen=True)
class QuantizerSpec:
    """Where a quantizer goes and what is wanted there, for `QuantizerTransform.at`.

    shape: of the tensor. elements: how many values of one sample share a step. input_axis: of a weight that is a matrix, the
    axis that its product sums over. learned, channel_axis, logarithm: see `UniformQuantizer` and `NNCFQuantizer`.
    """

    shape: tuple[int, ...]
    is_weight: bool
    bits: int
    symmetric: bool = True
    signed: bool | None = None
    channel_axis: int | None = None
    elements: int = 1
    learned: bool | None = True
    logarithm: bool = False
    input_axis: int | None = None
    group_size: int | None = None
    levels: int | None = None


class QuantizerTransform(Transform):
    """A quantizer as the algorithm sees it.

    takes: by key of the config, the values that this quantizer can be asked for, where it does not take all of them.
    bits_are_free: whether a search over bits may change them. mode: the only one it has, or None.
    """

    stage: ClassVar[int] = QUANTIZE
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"group_size": (), "levels": (), "logarithm_scale": (False,)}
    )
    bits_are_free: ClassVar[bool] = True
    mode: ClassVar[Literal["symmetric", "asymmetric"] | None] = None
    bits: int

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        raise NotImplementedError

    @classmethod
    def missing(cls, asked: Mapping[str, Any]) -> str | None:
        """What the config has to say for this quantizer and does not, as it would be written there. asked: `bits`, `levels`."""
        return None

    def observer(self, spec: ObserverSpec) -> Observer | None:
        own: Any = self  # these two are fields in some of them, and the same for all of a class in others
        return RangeCollector(spec, own.channel_axis, own.symmetric)

    @property
    def description(self) -> str:
        """What it does, for people: `int8 symmetric per channel`."""
        raise NotImplementedError

    @property
    def granularity(self) -> str:
        """For what there is a range, in the statistics."""
        return "per-tensor" if getattr(self, "channel_axis", None) is None else "per-channel"

    def variable_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the bounds for a tensor of `shape`: broadcastable, with as many as it has channels, or one."""
        own: Any = self
        axis = None if own.channel_axis is None else own.channel_axis % len(shape)
        return tuple(size if a == axis else 1 for a, size in enumerate(shape))


class UniformQuantizer(QuantizerTransform):
    """Rounds to 2^bits equidistant levels, one of them zero.

    symmetric: bounds are -+scale (signed) or 0..scale; otherwise low..low+span, shifted so that zero is a level.
    signed: None until it is known from data. narrow: one level fewer, so that signed levels are symmetric around zero.
    half: use `bits - 1` bits, for processors whose 8-bit multiply-add saturates (NNCF's overflow fix).
    channel_axis: axis with a range per index; None for one range per tensor.
    learned: whether training moves the bounds. None: only if no data tells what they are.
    """

    symmetric: bool
    signed: bool | None = None
    narrow: bool = False
    half: bool = False
    channel_axis: int | None = None
    learned: bool | None = True

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest integer level."""
        bits = self.bits - 1 if self.half else self.bits
        if self.symmetric and self.signed:
            return -(2 ** (bits - 1)) + self.narrow, 2 ** (bits - 1) - 1
        return int(self.narrow), 2**bits - 1

    @property
    def description(self) -> str:
        used = " (7 bits used)" if self.half else ""
        mode = "symmetric" if self.symmetric else "asymmetric"
        return f"int{self.bits}{used} {mode} per {'tensor' if self.channel_axis is None else 'channel'}"

    def known(self, seen: Range | None) -> UniformQuantizer:
        """This one with what data tell: whether values are negative, and whether the bounds are learned."""
        learned = seen is None if self.learned is None else self.learned
        signed = False
        if self.symmetric:
            negative = seen is None or bool((np.asarray(seen.low) < 0).any())
            signed = negative if self.signed is None else self.signed
        return self.model_copy(update={"signed": signed, "learned": learned})


def at_least(sizes: np.ndarray, share: float = SMALLEST_SHARE, floor: float = 1e-6) -> np.ndarray:
    """No size below `share` of the largest one."""
    return np.maximum(sizes, max(share * float(sizes.max()), floor)).astype(np.float32)


class NNCFQuantizer(UniformQuantizer):
    """Rounds a tensor to 2^bits levels between learned bounds (NNCF 2.x; gradients after Esser et al. 2020).

    logarithm: the variable is log(scale), or log(span), so that a gradient step multiplies the scale: with u = log(s),
        du = s * ds.
    """

    kind: Literal["quantizer"] = "quantizer"
    takes: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"levels": ()})

    logarithm: bool = False

    @classmethod
    def at(cls, spec: QuantizerSpec) -> QuantizerTransform:
        return cls(
            bits=spec.bits,
            symmetric=spec.symmetric,
            signed=spec.signed,
            channel_axis=spec.channel_axis,
            learned=spec.learned,
            logarithm=spec.logarithm,
        )

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        known = self.known(seen)
        if seen is None:
            ones = np.ones(self.variable_shape(shape), np.float32)
            seen = Range(-ones, ones)
        low, high = np.asarray(seen.low, np.float32), np.asarray(seen.high, np.float32)
        if self.symmetric:
            values = {"scale": at_least(np.maximum(np.abs(low), np.abs(high)))}
        else:
            span = high - low
            widened = at_least(span)
            values = {"low": low - (widened - span) / 2, "span": widened}
        if self.logarithm:
            values = {f"log_{name}" if name in ("scale", "span") else name: value for name, value in values.items()}
            values = {name: np.log(value) if name.startswith("log_") else value for name, value in values.items()}
        return known, {name: Var(value, trainable=bool(known.learned)) for name, value in values.items()}

    def encoded(self, xp: Any, variables: Any) -> Grid:
        lowest, highest = self.levels
        if self.symmetric:
            ends = numerics.symmetric_grid(xp, self._size(xp, variables), lowest, highest)
            return Grid(*ends, highest - lowest, zero=-lowest)
        span = xp.abs(self._size(xp, variables)) + numerics.SMALLEST
        low, span = numerics.grid_through_zero(xp, variables["low"], span, highest - lowest)
        return Grid(low, span / (highest - lowest), highest - lowest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        if self.symmetric:
            return numerics.fake_quantize_symmetric(xp, x, self._size(xp, variables), *self.levels)
        grid = self.encoded(xp, variables)
        return numerics.fake_quantize(xp, x, grid.low, grid.step, grid.intervals)

    def _size(self, xp: Any, variables: Any) -> Any:
        """The scale, or the span of an asymmetric range."""
        name = "scale" if self.symmetric else "span"
        return xp.exp(variables[f"log_{name}"]) if self.logarithm else variables[name]
