"""Quantization-aware training with learned ranges (NNCF 2.x `quantization`; gradients after Esser et al. 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics, staged
from nncf_ext.algorithms.algorithm import Outlook, Prospect, State, Training
from nncf_ext.algorithms.staged_quantizers import StagedQuantizers
from nncf_ext.config.initialization import RangeInit
from nncf_ext.config.precision import PrecisionInit
from nncf_ext.config.quantization import QuantizationConfig, QuantizationSettings
from nncf_ext.edits import QUANTIZE, Edit, Plan, Range, Transform, Var
from nncf_ext.graph import INPUT, Graph, Site
from nncf_ext.nncf_rules import Constraints
from nncf_ext.ops import has_weight, is_embedding
from nncf_ext.placement import Placement, model_type_of, place, reads_model_input
from nncf_ext.precision.choice import choose_bits, manual_bits
from nncf_ext.quantizer_settings import check_device, of_operators, overridden, range_inits, unified
from nncf_ext.schedules import Clock
from nncf_ext.scopes import considered, matches, select

_SMALLEST_SHARE = 0.01  # no channel's range is below this share of the widest channel's


@dataclass(frozen=True)
class Grid:
    """The numbers a quantizer can represent: low + k * step, k = 0..intervals. Arrays in the quantizer's broadcastable shape."""

    low: Any
    step: Any
    intervals: int


class Quantizer(Transform):
    """Rounds a tensor to 2^bits levels between learned bounds.

    symmetric: bounds are -+scale (signed) or 0..scale; otherwise low..low+span, shifted so that zero is a level.
    signed: None until it is known from data. narrow: one level fewer, so that signed levels are symmetric around zero.
    half: use `bits - 1` bits, for processors whose 8-bit multiply-add saturates (NNCF's overflow fix).
    channel_axis: axis with a range per index; None for one range per tensor.
    learned: whether training moves the bounds. None: only if no data tells what they are.
    logarithm: the variable is log(scale), or log(span), so that a gradient step multiplies the scale: with u = log(s),
        du = s * ds.
    """

    kind: Literal["quantizer"] = "quantizer"
    stage: ClassVar[int] = QUANTIZE
    needs_range: ClassVar[bool] = True
    has_grid: ClassVar[bool] = True

    bits: int
    symmetric: bool
    signed: bool | None = None
    narrow: bool = False
    half: bool = False
    channel_axis: int | None = None
    learned: bool | None = True
    logarithm: bool = False

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest integer level."""
        bits = self.bits - 1 if self.half else self.bits
        if self.symmetric and self.signed:
            return -(2 ** (bits - 1)) + self.narrow, 2 ** (bits - 1) - 1
        return int(self.narrow), 2**bits - 1

    def variable_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = None if self.channel_axis is None else self.channel_axis % len(shape)
        return tuple(size if a == axis else 1 for a, size in enumerate(shape))

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        learned = seen is None if self.learned is None else self.learned
        if seen is None:
            ones = np.ones(self.variable_shape(shape), np.float32)
            seen = Range(-ones, ones)
        low, high = np.asarray(seen.low, np.float32), np.asarray(seen.high, np.float32)
        if self.symmetric:
            signed = bool((low < 0).any()) if self.signed is None else self.signed
            scale = np.maximum(np.abs(low), np.abs(high))
            floor = max(_SMALLEST_SHARE * float(scale.max()), 1e-6)
            values = {"scale": np.maximum(scale, floor)}
        else:
            signed = False
            span = high - low
            widened = np.maximum(span, max(_SMALLEST_SHARE * float(span.max()), 1e-6))
            values = {"low": low - (widened - span) / 2, "span": widened}
        if self.logarithm:
            values = {f"log_{name}" if name in ("scale", "span") else name: value for name, value in values.items()}
            values = {name: np.log(value) if name.startswith("log_") else value for name, value in values.items()}
        known = self.model_copy(update={"signed": signed, "learned": learned})
        return known, {name: Var(value, trainable=learned) for name, value in values.items()}

    def grid(self, xp: Any, variables: Any) -> Grid:
        lowest, highest = self.levels
        if self.symmetric:
            return Grid(*numerics.symmetric_grid(xp, self._size(xp, variables), lowest, highest), highest - lowest)
        span = xp.abs(self._size(xp, variables)) + numerics.SMALLEST
        low, span = numerics.grid_through_zero(xp, variables["low"], span, highest - lowest)
        return Grid(low, span / (highest - lowest), highest - lowest)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        if self.symmetric:
            return numerics.fake_quantize_symmetric(xp, x, self._size(xp, variables), *self.levels)
        grid = self.grid(xp, variables)
        return numerics.fake_quantize(xp, x, grid.low, grid.step, grid.intervals)

    def _size(self, xp: Any, variables: Any) -> Any:
        """The scale, or the span of an asymmetric range."""
        name = "scale" if self.symmetric else "span"
        return xp.exp(variables[f"log_{name}"]) if self.logarithm else variables[name]


@dataclass(frozen=True)
class QuantizerBits:
    quantizer: str
    bits: int


@dataclass(frozen=True)
class QuantizationStatistics:
    """Numbers of quantizers by (`weights` | `activations`, bits, `symmetric` | `asymmetric`, `per-channel` | `per-tensor`), and
    the bits of each one."""

    quantizers: Counter[tuple[str, int, str, str]]
    weights_quantized: int
    weights_total: int
    bits: tuple[QuantizerBits, ...]


class Quantization(QuantizationConfig, StagedQuantizers):
    transforms: ClassVar[tuple[type[Transform], ...]] = (Quantizer,)
    family: ClassVar[str] = "quantization"

    def plan(self, graph: Graph, target_device: str) -> Plan:
        names = [node.name for node in graph.nodes]
        select(names, self.ignored_scopes, self.target_scopes, self.validate_scopes, self.where)
        ignored = [name for name in names if not considered(name, self.ignored_scopes, self.target_scopes)]
        groups = {
            group: set(select(names, s.ignored_scopes, s.target_scopes, s.validate_scopes, f"{self.where}.{group}"))
            for group, s in (("weights", self.weights), ("activations", self.activations))
        }
        placements: Sequence[Placement] = place(
            graph,
            preset=self.preset,
            target_device=target_device,
            weights=_constraints(self.weights),
            activations=_constraints(self.activations),
            of_operators=of_operators(graph, self.scope_overrides.activations),
            quantize_inputs=self.quantize_inputs,
            quantize_outputs=self.quantize_outputs,
            ignored=ignored,
            ignored_weights=set(names) - groups["weights"],
            ignored_activations=set(names) - groups["activations"],
            model_type=model_type_of(graph),
        )
        unwanted = [*self.ignored_scopes, *self.activations.ignored_scopes]  # an input has no inputs of its own to leave alone
        placements = [p for p in placements if not any(graph[s.node].op == INPUT and matches(s.node, unwanted) for s in p.sites)]
        placements = overridden(graph, placements, self.scope_overrides, self.where, self.validate_scopes)
        placements = unified(graph, placements, self.activations.unified_scale_ops, self.where, self.activations.validate_scopes)
        check_device(graph, placements, target_device, self.scope_overrides, self.where)
        half = self._half_range_nodes(graph, target_device)
        edits = tuple(self._edit(graph, placement, half) for placement in placements)
        precision = self.initializer.precision
        if precision is not None and precision.type == "manual":
            bits = manual_bits(precision, edits, graph, target_device, f"{self.where}.initializer.precision")
            edits = tuple(_with_bits(edit, bits[edit.key], half) if edit.key in bits else edit for edit in edits)
        self.range_inits(graph, edits)  # an entry of an array that is about nothing, or two about one, is told now
        quantized = {site.node for edit in edits for site in edit.sites if site.is_parameter}
        skipped = tuple(
            (
                node.name,
                "outside the scopes of quantization"
                if node.name in ignored or node.name not in groups["weights"]
                else f"{node.op}: not quantized on {target_device}",
            )
            for node in graph.nodes
            if has_weight(node) and node.name not in quantized
        )
        return Plan(edits, skipped)

    def refine(self, plan: Plan, prospect: Prospect) -> Plan:
        """The plan with the bits that `initializer.precision` chooses by data."""
        settings = self._search
        if settings is None:
            return plan
        half = self._half_range_nodes(prospect.graph, prospect.target_device)

        def with_bits(bits: Mapping[str, int]) -> Plan:
            edits = (_with_bits(edit, bits[edit.key], half) if edit.key in bits else edit for edit in plan)
            return replace(plan, edits=tuple(edits))

        where = f"{self.where}.initializer.precision"
        bits = choose_bits(settings, plan.of(self.algorithm), with_bits, prospect, where)
        return with_bits(prospect.adapter.of_first_rank(bits))

    def range_inits(self, graph: Graph, edits: Sequence[Edit]) -> Mapping[str, RangeInit]:
        quantizers = {edit.key: edit for edit in edits}
        return range_inits(quantizers, graph, self.initializer.range, self.scope_overrides, self.where, self.validate_scopes)

    def outlook(self, graph: Graph, edits: Sequence[Edit]) -> Outlook:
        at: dict[Site, str] = {}
        shared = 0
        for edit in edits:
            words = self._words(edit)
            if len(edit.sites) > 1:
                shared += 1
                words += f", one scale with {len(edit.sites) - 1} more (scale {shared})"
            at.update(dict.fromkeys(edit.sites, words))
        starts, inputs = self.range_inits(graph, edits), [edit.key for edit in edits if not edit.site.is_parameter]
        ways = Counter((starts[key].type, starts[key].amount) for key in inputs if key in starts)
        by_data = [f"ranges of {n} activations, {way} of {amount}" for (way, amount), n in ways.items() if amount]
        if self._search is not None:
            bits = ", ".join(map(str, self._search.bits))
            by_data.insert(0, f"bits of the quantizers, by {self._search.type}, out of {bits} where the device has them")
        return Outlook(at, replace(_statistics(graph, edits), bits=()), tuple(by_data))

    def report(self, training: Training, clock: Clock, state: State) -> QuantizationStatistics:
        return _statistics(training.graph, training.edits)

    @property
    def _search(self) -> PrecisionInit | None:
        """How data choose the bits, where they do."""
        precision = self.initializer.precision
        return None if precision is None or precision.type == "manual" else precision

    def _words(self, edit: Edit) -> str:
        quantizer = _quantizer_of(edit)
        bits = f"int{quantizer.bits}" if self._search is None else f"bits by {self._search.type},"
        used = " (7 bits used)" if quantizer.half else ""
        mode = "symmetric" if quantizer.symmetric else "asymmetric"
        return f"{bits}{used} {mode} per {'tensor' if quantizer.channel_axis is None else 'channel'}"

    def _edit(self, graph: Graph, placement: Placement, half: Collection[str]) -> Edit:
        site, spec = placement.sites[0], placement.spec
        is_weight = site.is_parameter
        axis = _channel_axis(graph, _deciding(graph, placement.sites)) if spec.per_channel else None
        transform = Quantizer(
            bits=spec.bits,
            symmetric=spec.mode == "symmetric",
            signed=True if is_weight and spec.signed is None else spec.signed,
            channel_axis=axis,
            # data tell the range of inputs; learning it takes the first layer's input gradient, needed for nothing else
            learned=None if any(reads_model_input(graph, s) for s in placement.sites) else True,
            logarithm=(self.weights if is_weight else self.activations).logarithm_scale,
        )
        edit = Edit(placement.sites, transform, self.algorithm, operators=placement.operators)
        return _with_bits(edit, spec.bits, half)

    def _half_range_nodes(self, graph: Graph, target_device: str) -> Collection[str]:
        """Nodes whose 8-bit weights use 7 bits (`overflow_fix`)."""
        if self.overflow_fix == "disable" or target_device not in ("ANY", "CPU"):
            return ()
        if self.overflow_fix == "enable":
            return graph.by_name
        return graph.first_reached(lambda node: node.parameter("weight") is not None)


def _with_bits(edit: Edit, bits: int, half: Collection[str]) -> Edit:
    """The quantizer with `bits`. 8-bit weights are symmetric around zero, and of nodes in `half` they use 7 bits."""
    halved = edit.site.is_parameter and bits == 8 and edit.site.node in half
    narrow = edit.site.is_parameter and bits == 8 and not halved
    return replace(edit, transform=edit.transform.model_copy(update={"bits": bits, "half": halved, "narrow": narrow}))


def _constraints(settings: QuantizationSettings) -> Constraints:
    return Constraints(settings.mode, settings.bits, settings.signed, settings.per_channel)


def _deciding(graph: Graph, sites: Sequence[Site]) -> Site:
    """The site that decides which axis has the channels: of an embedding and a product that share a weight, the product.

    Integer kernels take a scale per output channel and none along the axis they sum over; looking rows up goes with either.
    """
    return next((site for site in sites if not is_embedding(graph[site.node])), sites[0])


def _channel_axis(graph: Graph, site: Site) -> int:
    """Axis of the channels at a site: of a weight, the output channels; of an activation, what its node states."""
    node = graph[site.node]
    if site.is_parameter:
        parameter = node.parameter(site.slot)
        assert parameter is not None
        return 0 if parameter.channel_axis is None else parameter.channel_axis
    return -1 if node.attrs.get("data_format") == "channels_last" else 1


def _statistics(graph: Graph, edits: Sequence[Edit]) -> QuantizationStatistics:
    quantizers: Counter[tuple[str, int, str, str]] = Counter()
    bits: list[QuantizerBits] = []
    for edit in edits:
        quantizer = _quantizer_of(edit)
        bits.append(QuantizerBits(str(edit.site), quantizer.bits))
        quantizers[
            staged.group_of(edit.site),
            quantizer.bits,
            "symmetric" if quantizer.symmetric else "asymmetric",
            "per-tensor" if quantizer.channel_axis is None else "per-channel",
        ] += 1
    sites = [site for edit in edits for site in edit.sites]
    return QuantizationStatistics(quantizers, graph.size_of(sites), sum(graph.sizes.values()), tuple(bits))


def _quantizer_of(edit: Edit) -> Quantizer:
    assert isinstance(edit.transform, Quantizer)
    return edit.transform
