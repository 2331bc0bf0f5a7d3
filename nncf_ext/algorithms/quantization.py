"""Quantization-aware training with learned ranges (NNCF 2.x `quantization`; gradients after Esser et al. 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar

from nncf_ext.algorithm import PlanningContext, PlanSummary, State, Training
from nncf_ext.algorithms.staged_quantizers import StagedQuantizers
from nncf_ext.config.initialization import RangeInit
from nncf_ext.config.precision import PrecisionInit
from nncf_ext.config.quantization import QuantizationConfig, QuantizationSettings
from nncf_ext.edits import Edit, Plan, Transform
from nncf_ext.errors import ConfigError, as_json
from nncf_ext.graph import INPUT, Graph, Node, Site
from nncf_ext.ops import has_weight, is_embedding, weights
from nncf_ext.quantization import staged
from nncf_ext.quantization.nncf_rules import Constraints
from nncf_ext.quantization.placement import Placement, model_type_of, place, reads_model_input
from nncf_ext.quantization.precision.choice import choose_bits, manual_bits
from nncf_ext.quantization.quantizers import (
    GROUPED,
    QUANTIZERS,
    TRANSFORMS,
    QuantizerFactory,
    QuantizerSpec,
    QuantizerTransform,
    UniformQuantizer,
)
from nncf_ext.quantization.quantizers.pact import PACT
from nncf_ext.quantization.settings import (
    QuantizerRequest,
    check_device,
    of_operators,
    overridden,
    range_inits,
    request_of,
    unified,
)
from nncf_ext.schedules import Clock
from nncf_ext.scopes import considered, matches, select


@dataclass(frozen=True)
class QuantizerBits:
    quantizer: str
    bits: int


@dataclass(frozen=True)
class QuantizersCounter:
    """Numbers of quantizers of the weights, or of the activations (NNCF 2.x)."""

    num_symmetric: int
    num_asymmetric: int
    num_signed: int
    num_unsigned: int
    num_per_tensor: int
    num_per_channel: int
    total_count: int


@dataclass(frozen=True)
class QuantizationStatistics:
    """Numbers of quantizers by (`weights` | `activations`, bits, `symmetric` | `asymmetric`, `per-channel` |
    `per-tensor` | `per-group`), and
    the bits of each one. unsigned: those that have no negative level, of `weights` and of `activations`; asymmetric ones may have
    some, and count as signed."""

    quantizers: Counter[tuple[str, int, str, str]]
    weights_quantized: int
    weights_total: int
    bits: tuple[QuantizerBits, ...]
    ratio_of_enabled_quantizations: float = 100.0
    unsigned: Counter[str] = field(default_factory=Counter)

    # NNCF 2.x's ways to the same numbers

    @property
    def wq_counter(self) -> QuantizersCounter:
        return _counter(self, "weights")

    @property
    def aq_counter(self) -> QuantizersCounter:
        return _counter(self, "activations")

    @property
    def num_wq_per_bitwidth(self) -> dict[int, int]:
        return _by_bits(self.quantizers, "weights")

    @property
    def num_aq_per_bitwidth(self) -> dict[int, int]:
        return _by_bits(self.quantizers, "activations")


def _counter(statistics: QuantizationStatistics, group: str) -> QuantizersCounter:
    found: Counter[str] = Counter()
    for (of, _, mode, share), number in statistics.quantizers.items():
        if of == group:
            found.update({mode: number, share: number})
    total = found["symmetric"] + found["asymmetric"]
    unsigned = statistics.unsigned[group]
    return QuantizersCounter(
        found["symmetric"],
        found["asymmetric"],
        total - unsigned,
        unsigned,
        found["per-tensor"],
        found["per-channel"],
        total,
    )


def _by_bits(quantizers: Counter[tuple[str, int, str, str]], group: str) -> dict[int, int]:
    found: Counter[int] = Counter()
    for (of, bits, _, _), number in quantizers.items():
        if of == group:
            found[bits] += number
    return dict(found)


class Quantization(QuantizationConfig, StagedQuantizers):
    transforms: ClassVar[tuple[type[Transform], ...]] = TRANSFORMS
    family: ClassVar[str] = "quantization"

    def plan(self, graph: Graph, target_device: str) -> Plan:
        names = [node.name for node in graph.nodes]
        select(names, self.ignored_scopes, self.target_scopes, self.validate_scopes, self.path())
        ignored = [name for name in names if not considered(name, self.ignored_scopes, self.target_scopes)]
        groups = {
            group: set(select(names, s.ignored_scopes, s.target_scopes, s.validate_scopes, self.path(group)))
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
        placements = overridden(graph, placements, self.scope_overrides, self.path(), self.validate_scopes)
        placements = unified(graph, placements, self.activations.unified_scale_ops, self.path(), self.activations.validate_scopes)
        wanted = [self._choice(graph, placement) for placement in placements]
        placements = [
            p if c.kind.mode is None else replace(p, spec=replace(p.spec, mode=c.kind.mode))
            for p, (c, _) in zip(placements, wanted, strict=True)
        ]
        check_device(graph, placements, target_device, self.scope_overrides, self.path())
        half = self._half_range_nodes(graph, target_device)
        edits = tuple(
            self._edit(graph, placement, choice, request, half)
            for placement, (choice, request) in zip(placements, wanted, strict=True)
        )
        precision = self.initializer.precision
        if precision is not None:
            self._check_bits_are_free(edits)
        if precision is not None and precision.type == "manual":
            bits = manual_bits(precision, edits, graph, target_device, self.path("initializer.precision"))
            edits = tuple(_with_bits(edit, bits[edit.key], half) if edit.key in bits else edit for edit in edits)
        self.range_inits(graph, edits)  # an entry of an array that is about nothing, or two about one, is told now
        quantized = {site for edit in edits for site in edit.sites if site.is_parameter}
        skipped = tuple(
            (
                node.name,
                "outside the scopes of quantization"
                if node.name in ignored or node.name not in groups["weights"]
                else f"{node.op}: not quantized on {target_device}",
            )
            for node in graph.nodes
            if any(Site(node.name, weight.slot) not in quantized for weight in weights(node))
        )
        return Plan(edits, skipped)

    def refine(self, plan: Plan, context: PlanningContext) -> Plan:
        """The plan with the bits that `initializer.precision` chooses by data."""
        settings = self._search
        if settings is None:
            return plan
        half = self._half_range_nodes(context.graph, context.target_device)

        def with_bits(bits: Mapping[str, int]) -> Plan:
            edits = (_with_bits(edit, bits[edit.key], half) if edit.key in bits else edit for edit in plan)
            return replace(plan, edits=tuple(edits))

        json_path = self.path("initializer.precision")
        bits = choose_bits(settings, plan.of(self.algorithm), with_bits, context, json_path)
        return with_bits(context.adapter.broadcast_from_rank0(bits))

    def range_inits(self, graph: Graph, edits: Sequence[Edit]) -> Mapping[str, RangeInit]:
        quantizers = {edit.key: edit for edit in edits if edit.needs_range}
        return range_inits(quantizers, graph, self.initializer.range, self.scope_overrides, self.path(), self.validate_scopes)

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        at: dict[Site, str] = {}
        shared = 0
        for edit in edits:
            description = self._words(edit)
            if len(edit.sites) > 1:
                shared += 1
                description += f", one scale with {len(edit.sites) - 1} more (scale {shared})"
            at.update(dict.fromkeys(edit.sites, description))
        starts, inputs = self.range_inits(graph, edits), [edit.key for edit in edits if not edit.site.is_parameter]
        ways = Counter((starts[key].type, starts[key].amount) for key in inputs if key in starts)
        by_data = [f"ranges of {n} activations, {way} of {amount}" for (way, amount), n in ways.items() if amount]
        if self._search is not None:
            bits = ", ".join(map(str, self._search.bits))
            by_data.insert(0, f"bits of the quantizers, by {self._search.type}, out of {bits} where the device has them")
        return PlanSummary(at, replace(_statistics(graph, edits), bits=()), tuple(by_data))

    def loss(self, training: Training, state: State) -> Any:
        """The factor times the sum of the squared learned clipping levels (PACT)."""
        factor, xp = self.activations.clipping_regularization_factor, training.xp
        clips = [
            training.variables(edit)["clip"]
            for edit in training.edits
            if isinstance(edit.transform, PACT) and edit.transform.learned
        ]
        return factor * sum(xp.sum(xp.square(clip)) for clip in clips) if clips and factor else None

    def report(self, training: Training, clock: Clock, state: State) -> QuantizationStatistics:
        working = sum(training.attached.enabled(edit) for edit in training.edits)
        share = 100 * working / len(training.edits) if training.edits else 0.0
        return replace(_statistics(training.graph, training.edits), ratio_of_enabled_quantizations=share)

    @property
    def _search(self) -> PrecisionInit | None:
        """How data choose the bits, where they do."""
        precision = self.initializer.precision
        return None if precision is None or precision.type == "manual" else precision

    def _words(self, edit: Edit) -> str:
        quantizer = _quantizer_of(edit)
        if self._search is None:
            return quantizer.description
        return quantizer.description.replace(f"int{quantizer.bits}", f"bits by {self._search.type},", 1)

    def _choice(self, graph: Graph, placement: Placement) -> tuple[QuantizerFactory, QuantizerRequest]:
        """The quantizer for a placement, and what the config asks of it. ConfigError where it cannot be had."""
        group = staged.group_of(placement.sites[0])
        settings = self.weights if group == "weights" else self.activations
        request = request_of(graph, placement, settings, getattr(self.scope_overrides, group), self.path())
        name, size = request.value("quantizer", "nncf"), request.value("group_size")
        choice = GROUPED if name == "nncf" and size is not None else QUANTIZERS[group][name]
        site = placement.sites[0]
        for key, allowed in choice.kind.takes.items():
            found = request.value(key)
            if found is not None and found not in allowed:
                expected = f"expected {' or '.join(map(as_json, allowed))}" if allowed else "which has no such key"
                raise ConfigError(
                    f"{request.json_path(key)}: found {as_json(found)} for {site} and quantizer {as_json(name)}, {expected}"
                )
        missing = choice.kind.missing({key: request.value(key) for key in ("bits", "levels")})
        if missing:
            raise ConfigError(f"{request.json_path('quantizer')}: found no number of levels for {site}, expected {missing}")
        if size is not None:
            axis = _input_axis(graph, placement)
            inputs = None if axis is None else graph.shape_of(site)[axis]
            if inputs is None:
                raise ConfigError(
                    f"{request.json_path('group_size')}: found {size} for {site} of shape {graph.shape_of(site)}, "
                    f"expected linear layers only: name them in scope_overrides.weights"
                )
            if inputs % size:
                raise ConfigError(
                    f"{request.json_path('group_size')}: found {size} for the {inputs} inputs of {site}, expected a divisor"
                )
        return choice, request

    def _edit(
        self, graph: Graph, placement: Placement, choice: QuantizerFactory, request: QuantizerRequest, half: Collection[str]
    ) -> Edit:
        site, spec = placement.sites[0], placement.spec
        is_weight, shape = site.is_parameter, graph.shape_of(site)
        axis = _channel_axis(graph, _deciding(graph, placement.sites)) if spec.per_channel else None
        of_sample = shape if is_weight else shape[1:]
        transform = choice.make(
            QuantizerSpec(
                shape=shape,
                is_weight=is_weight,
                bits=spec.bits,
                symmetric=spec.mode == "symmetric",
                signed=True if is_weight and spec.signed is None else spec.signed,
                channel_axis=axis,
                elements=max(prod(of_sample) // (1 if axis is None else shape[axis]), 1),
                # data tell the range of inputs; learning it takes the first layer's input gradient, needed for nothing else
                learned=None if any(reads_model_input(graph, s) for s in placement.sites) else True,
                logarithm=(self.weights if is_weight else self.activations).logarithm_scale,
                input_axis=_input_axis(graph, placement),
                group_size=request.value("group_size"),
                levels=request.value("levels"),
            )
        )
        edit = Edit(placement.sites, transform, self.algorithm, operators=placement.operators)
        return _with_bits(edit, transform.bits, half)

    def _check_bits_are_free(self, edits: Sequence[Edit]) -> None:
        for edit in edits:
            if not _quantizer_of(edit).bits_are_free:
                raise ConfigError(
                    f"{self.path('initializer.precision')}: found a quantizer at {edit.site} whose bits are not to be chosen "
                    f"({_quantizer_of(edit).description}), expected nncf, lsq, lsq_plus, pact or dorefa"
                )

    def _half_range_nodes(self, graph: Graph, target_device: str) -> Collection[str]:
        """Nodes whose 8-bit weights use 7 bits (`overflow_fix`)."""
        if self.overflow_fix == "disable" or target_device not in ("ANY", "CPU"):
            return ()
        if self.overflow_fix == "enable":
            return graph.by_name
        return graph.first_reached(lambda node: node.parameter("weight") is not None or has_weight(node))


def _with_bits(edit: Edit, bits: int, half: Collection[str]) -> Edit:
    """The quantizer with `bits`. 8-bit weights are symmetric around zero, and of nodes in `half` they use 7 bits."""
    if not isinstance(edit.transform, UniformQuantizer):
        return replace(edit, transform=edit.transform.model_copy(update={"bits": bits}))
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
    """Axis of the channels at a site: of a weight, the output channels; of an activation, what its node states or, of those
    around it, the nearest that states something (a ReLU between convolutions does not)."""
    node = graph[site.node]
    if site.is_parameter:
        parameter = graph.parameter_at(site)
        return 0 if parameter.channel_axis is None else parameter.channel_axis
    return -1 if _data_format(graph, node) == "channels_last" else 1


def _data_format(graph: Graph, node: Node) -> str | None:
    seen, frontier = {node.name}, [node.name]
    while frontier:
        stated = [graph[name].attrs["data_format"] for name in frontier if "data_format" in graph[name].attrs]
        if stated:
            return stated[0]
        after = [edge.target for name in frontier for edge in graph.outputs_of.get(name, ())]
        before = [edge.source for name in frontier for edge in graph.inputs_of.get(name, ())]
        frontier = [name for name in dict.fromkeys([*after, *before]) if name not in seen]
        seen.update(frontier)
    return None


def _input_axis(graph: Graph, placement: Placement) -> int | None:
    """Of a weight that is the matrix of linear layers, the axis that their product sums over."""
    found = set()
    for site in placement.sites:
        parameter = graph[site.node].parameter(site.slot) if site.is_parameter else None
        if parameter is None or graph[site.node].op not in ("Gemm", "MatMul") or len(parameter.shape) != 2:
            return None
        found.add(1 - (parameter.channel_axis or 0) % 2)
    return found.pop() if len(found) == 1 else None


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
            quantizer.granularity,
        ] += 1
    sites = [site for edit in edits for site in edit.sites]
    known = [(staged.group_of(edit.site), _quantizer_of(edit)) for edit in edits]
    unsigned = Counter(group for group, quantizer in known if quantizer.symmetric and getattr(quantizer, "signed", True) is False)
    return QuantizationStatistics(quantizers, graph.size_of(sites), sum(graph.sizes.values()), tuple(bits), unsigned=unsigned)


def _quantizer_of(edit: Edit) -> Any:
    assert isinstance(edit.transform, QuantizerTransform)
    return edit.transform
