"""Where quantizers go: NNCF's own placement (its hardware tables, fused and ignored patterns), asked over our graph.

NNCF's ONNX backend decides by operator type, edges and shapes alone; it never opens the ONNX model. A graph that names its
operators by ONNX type therefore gets, point for point, what `nncf.quantize` places on the same model. This is the only module
that touches NNCF's internals; the tests compare it with NNCF's torch backend, so a change in there cannot pass unseen.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from nncf_ext import ops
from nncf_ext.graph import INPUT, OUTPUT, Graph, Node, Site

Mode = Literal["symmetric", "asymmetric"]
# NNCF knows these normalisations as a chain of simpler operators only; for placement its first one stands for the chain.
_TREATED_AS = {"LayerNormalization": "ReduceMean", "GroupNormalization": "ReduceMean"}


@dataclass(frozen=True)
class Constraints:
    """What a config's `weights` or `activations` group asks for; None leaves the choice to the preset and the device."""

    mode: Mode | None = None
    bits: int | None = None
    signed: bool | None = None
    per_channel: bool | None = None


@dataclass(frozen=True)
class QuantizerSpec:
    """signed None: by the calibration data (unsigned where no value is negative)."""

    bits: int
    mode: Mode
    signed: bool | None
    per_channel: bool


@dataclass(frozen=True)
class Placement:
    """One quantizer. Several sites share it: a unified scale (inputs of a Concat), or a weight that several nodes use."""

    sites: tuple[Site, ...]
    spec: QuantizerSpec

    @property
    def of_weight(self) -> bool:
        return self.sites[0].is_parameter


def place(
    graph: Graph,
    *,
    preset: Literal["performance", "mixed"] = "performance",
    target_device: str = "ANY",
    weights: Constraints = Constraints(),
    activations: Constraints = Constraints(),
    quantize_inputs: bool = True,
    quantize_outputs: bool = False,
    ignored: Collection[str] = (),
    ignored_weights: Collection[str] = (),
    ignored_activations: Collection[str] = (),
    model_type: Literal["transformer"] | None = None,
) -> tuple[Placement, ...]:
    """Quantizers for `graph`, in execution order.

    preset: performance = symmetric weights and activations; mixed = symmetric weights, asymmetric activations.
    target_device: ANY, CPU, GPU and NPU share NNCF's 8-bit table (as in NNCF 3.4 itself), CPU_SPR adds its own rules to it;
        TRIAL has no table: every quantizer symmetric and per tensor unless the constraints say otherwise.
    weights, activations: the tables know 8 bits only, so they decide where, and the constraints' bits, signed and per_channel
        are put in afterwards. Weights are per channel where the table's first choice is (all of them); activations are per
        tensor unless asked otherwise, also before depthwise convolutions, where the table prefers per channel: ONNX Runtime
        has no integer kernel for that.
    ignored: names of nodes that stay in floating point. ignored_weights, ignored_activations: nodes of which only the weight, or
        only the inputs, do; no quantizer moves up through a node whose inputs are ignored.
    model_type: see `model_type_of`.
    """

    def placed(ignored: Collection[str]) -> tuple[Placement, ...]:
        with _quiet_nncf():
            setup = _quantizer_setup(
                graph, preset, target_device, weights.mode, activations.mode, quantize_outputs, ignored, model_type
            )
        return _placements(graph, setup, weights, activations)

    ignored = {*ignored, *_attention_outputs(graph)}
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


def _placements(graph: Graph, setup: Any, weights: Constraints, activations: Constraints) -> tuple[Placement, ...]:
    """What NNCF's SingleConfigQuantizerSetup says, in terms of our sites."""
    unified = {point: group for group, points in setup.unified_scale_groups.items() for point in points}
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    shared: dict[object, list[Site]] = {}  # by what makes a quantizer one: its unified scale, its weight, or its site
    specs: dict[object, QuantizerSpec] = {}
    for key, point in setup.quantization_points.items():
        node = point.insertion_point.target_node_name
        if point.is_weight_quantization_point():
            sites = (Site(node, "weight"),)
            spec = _spec(point.qconfig, weights, per_channel=point.qconfig.per_channel)
        else:
            sites = _activation_sites(graph, node, point.insertion_point.input_port_id)
            spec = _spec(point.qconfig, activations, per_channel=False)
        for site in sites:
            owner = unified.get(key, _weight_name(graph, site) if site.is_parameter else site)
            shared.setdefault(owner, []).append(site)
            specs[owner] = spec
    return tuple(
        Placement(tuple(sorted(sites, key=lambda site: (order[site.node], site.slot))), specs[owner])
        for owner, sites in shared.items()
    )


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


def _weight_name(graph: Graph, site: Site) -> str:
    parameter = graph[site.node].parameter(site.slot)
    assert parameter is not None, site
    return parameter.name


def _spec(chosen: Any, asked: Constraints, per_channel: bool) -> QuantizerSpec:
    return QuantizerSpec(
        bits=asked.bits or chosen.num_bits,
        mode="symmetric" if chosen.mode == "symmetric" else "asymmetric",
        signed=chosen.signedness_to_force if asked.signed is None else asked.signed,
        per_channel=per_channel if asked.per_channel is None else asked.per_channel,
    )


@contextmanager
def _quiet_nncf() -> Iterator[None]:
    """NNCF logs to stdout, and its imports warn of each other's deprecations: neither is the user's concern."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _quantizer_setup(
    graph: Graph,
    preset: str,
    target_device: str,
    weight_mode: Mode | None,
    activation_mode: Mode | None,
    quantize_outputs: bool,
    ignored: Collection[str],
    model_type: str | None,
) -> Any:
    """NNCF's SingleConfigQuantizerSetup for `graph`."""
    import onnx
    from nncf import IgnoredScope, ModelType, QuantizationPreset, TargetDevice
    from nncf.onnx.graph.metatypes import onnx_metatypes
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.algorithms.min_max.algorithm import MinMaxQuantization
    from nncf.quantization.algorithms.min_max.onnx_backend import ONNXMinMaxAlgoBackend

    class Backend(ONNXMinMaxAlgoBackend):
        @property
        def noop_metatypes(self) -> list[Any]:  # seen through, as NNCF's torch backend does
            return [onnx_metatypes.ONNXIdentityMetatype, onnx_metatypes.ONNXDropoutMetatype]

        @property
        def hw_config(self) -> Any:
            return (lambda device: None) if target_device == "TRIAL" else super().hw_config

    algorithm = MinMaxQuantization(
        preset=QuantizationPreset(preset),
        target_device=TargetDevice("ANY" if target_device == "TRIAL" else target_device),
        model_type=ModelType(model_type) if model_type else None,
        ignored_scope=IgnoredScope(names=sorted(ignored)),
        quantize_outputs=quantize_outputs,
        weights_quantization_params=QuantizationParameters(mode=_scheme(weight_mode)),
        activations_quantization_params=QuantizationParameters(mode=_scheme(activation_mode)),
    )
    algorithm._backend_entity = Backend()
    which_backend = onnx.ModelProto()  # read for nothing else
    return algorithm.find_quantization_setup(which_backend, _nncf_graph(graph))


def _scheme(mode: Mode | None) -> Any:
    from nncf.common.quantization.structs import QuantizationScheme

    return QuantizationScheme(mode) if mode else None


def _nncf_graph(graph: Graph) -> Any:
    from nncf.common.graph.graph import NNCFGraph
    from nncf.common.graph.layer_attributes import Dtype
    from nncf.onnx.graph.nncf_graph_builder import ONNXLayerAttributes

    result = NNCFGraph()
    ids = {node.name: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        weight = node.parameter("weight") if ops.has_weight(node) else None
        attributes = {ops.weight_port(node): {"name": weight.name, "shape": weight.shape}} if weight else None
        result.add_nncf_node(
            node_name=node.name,
            node_type=_node_type(node),
            node_metatype=_metatype(node),
            layer_attributes=ONNXLayerAttributes(weight_attrs=attributes),
            node_id_override=ids[node.name],
            is_integer_input=node.op == INPUT and not all(_is_float(e.dtype) for e in graph.outputs_of.get(node.name, ())),
        )
    for edge in graph.edges:
        result.add_edge_between_nncf_nodes(
            ids[edge.source],
            ids[edge.target],
            tensor_shape=edge.shape,
            input_port_id=edge.target_port,
            output_port_id=edge.source_port,
            dtype=Dtype.FLOAT if _is_float(edge.dtype) else Dtype.INTEGER,
        )
    return result


def _is_float(dtype: str) -> bool:
    return "float" in dtype


def _node_type(node: Node) -> str:
    from nncf.common.graph.definitions import NNCFGraphNodeType

    return {INPUT: NNCFGraphNodeType.INPUT_NODE, OUTPUT: NNCFGraphNodeType.OUTPUT_NODE}.get(node.op, node.op)


def _metatype(node: Node) -> Any:
    """NNCF's class for an operator; NNCF's UnknownMetatype, which is never quantized, for one that it does not know."""
    from nncf.common.graph.operator_metatypes import InputNoopMetatype, OutputNoopMetatype
    from nncf.onnx.graph.metatypes import onnx_metatypes

    if ops.is_depthwise(node):
        return onnx_metatypes.ONNXDepthwiseConvolutionMetatype
    if ops.is_embedding(node):
        return onnx_metatypes.ONNXEmbeddingMetatype
    special = {INPUT: InputNoopMetatype, OUTPUT: OutputNoopMetatype}
    op = _TREATED_AS.get(node.op, node.op)
    return special.get(op) or onnx_metatypes.ONNX_OPERATION_METATYPES.get_operator_metatype_by_op_name(op)
