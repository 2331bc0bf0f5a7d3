"""Where quantizers go: NNCF's own placement (its hardware tables, fused and ignored patterns), asked over our graph.

NNCF's ONNX backend decides by operator type, edges and shapes alone; it never opens the ONNX model. A graph that names its
operators by ONNX type therefore gets, point for point, what `nncf.quantize` places on the same model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from nncf_ext import ops
from nncf_ext.graph import INPUT, Graph, Node, Site
from nncf_ext.quantization.nncf_rules import ANYTHING, Constraints, Mode, quantizer_setup
from nncf_ext.quantization.poles import around_poles
from nncf_ext.quantization.postprocessing import around_choices

_NONE: Mapping[str, Constraints] = MappingProxyType({})


@dataclass(frozen=True)
class QuantizerSpec:
    """signed None: by the calibration data (unsigned where no value is negative)."""

    bits: int
    mode: Mode
    signed: bool | None
    per_channel: bool

    def constrained(self, asked: Constraints) -> QuantizerSpec:
        """This one as it is asked for."""
        known = {key: value for key, value in vars(asked).items() if value is not None}
        if asked.mode is not None and asked.mode != self.mode:
            known.setdefault("signed", None)
        return replace(self, **known)


@dataclass(frozen=True)
class Placement:
    """One quantizer. Several sites share it: a unified scale (inputs of a Concat), or a weight that several nodes use.

    operators: those that compute with the quantized tensor.
    """

    sites: tuple[Site, ...]
    spec: QuantizerSpec
    operators: tuple[str, ...] = ()

    @property
    def of_weight(self) -> bool:
        return self.sites[0].is_parameter


def place(
    graph: Graph,
    *,
    preset: Literal["performance", "mixed"] = "performance",
    target_device: str = "ANY",
    weights: Constraints = ANYTHING,
    activations: Constraints = ANYTHING,
    of_operators: Mapping[str, Constraints] = _NONE,
    quantize_inputs: bool = True,
    quantize_outputs: bool = False,
    ignored: Collection[str] = (),
    ignored_weights: Collection[str] = (),
    ignored_activations: Collection[str] = (),
    model_type: Literal["transformer"] | None = None,
) -> tuple[Placement, ...]:
    """Quantizers for `graph`, in execution order.

    preset: performance = symmetric weights and activations; mixed = symmetric weights, asymmetric activations.
    target_device: ANY, CPU, GPU and NPU have NNCF's tables, CPU_SPR adds its own rules to the one of CPU; TRIAL has none: every
        quantizer is symmetric and per tensor unless the constraints say otherwise.
    weights, activations: constraints say how, the tables where: they are taken to allow whatever is asked for (what they do
        allow, `nncf_rules.allowed` tells). Where nothing is asked for, weights are per channel where the table's first choice is
        (all of them); activations have 8 bits and are per tensor, also before depthwise convolutions, where the table prefers
        per channel: ONNX Runtime has no integer kernel for that.
    of_operators: constraints on what these nodes read. Where others read the same tensor and want it otherwise, each has a
        quantizer of its own.
    ignored: names of nodes that stay in floating point. ignored_weights, ignored_activations: nodes of which only the weight, or
        only the inputs, do; no quantizer moves up through a node whose inputs are ignored.
    model_type: see `model_type_of`.
    """

    everywhere = Constraints(bits=8, per_channel=False).updated(activations)

    def placed(ignored: Collection[str]) -> tuple[Placement, ...]:
        setup = quantizer_setup(
            graph,
            preset=preset,
            target_device=target_device,
            weight_mode=weights.mode,
            activations=everywhere,
            of_operators={node: everywhere.updated(constraints) for node, constraints in of_operators.items()},
            quantize_outputs=quantize_outputs,
            ignored=ignored,
            model_type=model_type,
        )
        return _placements(graph, setup, weights)

    ignored = {*ignored, *_attention_outputs(graph), *around_choices(graph), *around_poles(graph)}
    placements = placed(ignored)
    if ignored_activations:  # NNCF ignores whole nodes: without these, it says where their weights and all other inputs go
        others = placed({*ignored, *ignored_activations})
        placements = tuple(p for p in placements if p.of_weight) + tuple(p for p in others if not p.of_weight)
    if ignored_weights:
        placements = tuple(p for p in placements if not (p.of_weight and any(s.node in ignored_weights for s in p.sites)))
    if not quantize_inputs:
        placements = tuple(p for p in placements if p.of_weight or not any(reads_model_input(graph, s) for s in p.sites))
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    return tuple(sorted(placements, key=lambda placement: (order[placement.sites[0].node], placement.sites[0].slot)))


def _placements(graph: Graph, setup: Any, weights: Constraints) -> tuple[Placement, ...]:
    """What NNCF's SingleConfigQuantizerSetup says, in terms of our sites."""
    unified = {point: group for group, points in setup.unified_scale_groups.items() for point in points}
    tables = _weights_by_group(graph, setup, unified)
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    shared: dict[object, list[Site]] = {}  # by what makes a quantizer one: its unified scale, its weight, or its site
    specs: dict[object, QuantizerSpec] = {}
    readers: dict[object, set[str]] = {}
    for key, point in setup.quantization_points.items():
        node, chosen = point.insertion_point.target_node_name, point.qconfig
        spec = QuantizerSpec(chosen.num_bits, chosen.mode.value, chosen.signedness_to_force, chosen.per_channel)
        if point.is_weight_quantization_point():
            sites = tuple(Site(node, weight.slot) for weight in ops.weights(graph[node]))
            several = len(tables.get(unified.get(key), ())) > 1  # whose channels are not the same ones
            spec = spec.constrained(replace(weights, per_channel=False) if several else weights)
        else:
            sites = _activation_sites(graph, node, point.insertion_point.input_port_id)
        for site in sites:
            owner = unified.get(key, graph.parameter_at(site).name if site.is_parameter else site)
            shared.setdefault(owner, []).append(site)
            specs[owner] = spec
            at_this_one = (
                {site.node} if len(sites) > 1 or site.is_parameter else set(point.directly_quantized_operator_node_names)
            )
            readers.setdefault(owner, set()).update(at_this_one)
    return tuple(
        Placement(
            tuple(sorted(sites, key=lambda site: (order[site.node], site.slot))),
            specs[owner],
            tuple(sorted(readers[owner], key=lambda name: order[name])),
        )
        for owner, sites in shared.items()
    )


def _weights_by_group(graph: Graph, setup: Any, unified: Mapping[Any, Any]) -> dict[Any, set[str]]:
    """The names of the weights in each group of unified scales."""
    found: dict[Any, set[str]] = {}
    for key, point in setup.quantization_points.items():
        if key in unified and point.is_weight_quantization_point():
            node = point.insertion_point.target_node_name
            found.setdefault(unified[key], set()).update(weight.name for weight in ops.weights(graph[node]))
    return found


def model_type_of(graph: Graph) -> Literal["transformer"] | None:
    """`transformer` where the graph computes attention (Softmax(...) times another activation, or a fused operator), else None.

    It is what the user of `nncf.quantize` would have to pass: with it NNCF keeps normalisations, residual additions and other
    element-wise operators of the model in floating point.
    """
    for node in graph.nodes:
        if node.op == "Attention":
            return "transformer"
        if node.op == "MatMul" and not ops.has_weight(node) and _comes_from_softmax(graph, node):
            return "transformer"
    return None


def _attention_outputs(graph: Graph) -> Iterator[str]:
    """Products of attention weights and values that NNCF does not recognise as such, because an einsum hides the transposition.

    Everywhere else NNCF itself leaves softmax(...) V in floating point.
    """
    for node in graph.nodes:
        if node.op == "MatMul" and not ops.has_weight(node) and _comes_from_softmax(graph, node):
            factors = (graph[edge.source] for edge in graph.inputs_of[node.name])
            if any("equation" in factor.attrs or "subscripts" in factor.attrs for factor in (node, *factors)):
                yield node.name


def _comes_from_softmax(graph: Graph, node: Node) -> bool:
    """Whether the left factor of this product is a Softmax, seen through operators that only pass a tensor on."""
    name = node.name
    while True:
        edges = graph.inputs_of.get(name, ())
        if not edges:
            return False
        name = edges[0].source
        if graph[name].op == "Softmax":
            return True
        if graph[name].op not in ("Dropout", "Identity", "Cast", "Reshape", "Expand", "Transpose"):
            return False


def _activation_sites(graph: Graph, node: str, port: int | None) -> tuple[Site, ...]:
    if port is not None:
        return (Site(node, f"input:{port}"),)
    edges = graph.outputs_of[node]
    scattered = graph[node].attrs.get("scattered_output") or len({edge.source_port for edge in edges}) > 1
    if scattered:  # not one tensor that is passed on: quantize where its tensors arrive
        return tuple(Site(edge.target, f"input:{edge.target_port}") for edge in edges)
    return (Site(node, "output"),)


def reads_model_input(graph: Graph, site: Site) -> bool:
    """Whether an input of the model is the tensor at an activation site."""
    sources = {site.node} if site.port is None else {e.source for e in graph.inputs_of[site.node] if e.target_port == site.port}
    return any(graph[source].op == INPUT for source in sources)
