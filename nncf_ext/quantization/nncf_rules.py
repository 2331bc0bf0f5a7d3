"""The rules of NNCF 3.4 itself, asked over our graph: where quantizers go, and what the tables of its target devices allow.

This is the only module that touches NNCF's internals; the tests compare it with NNCF's torch backend, so a change in there cannot
pass unseen.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from nncf_ext import ops
from nncf_ext.graph import INPUT, OUTPUT, Graph, Node

Mode = Literal["symmetric", "asymmetric"]
# NNCF knows these normalisations as a chain of simpler operators only; for placement its first one stands for the chain.
_TREATED_AS = {"LayerNormalization": "ReduceMean", "GroupNormalization": "ReduceMean"}


@dataclass(frozen=True)
class Constraints:
    """What a config asks of quantizers; None leaves the choice to the preset and the device."""

    mode: Mode | None = None
    bits: int | None = None
    signed: bool | None = None
    per_channel: bool | None = None

    def updated(self, other: Constraints) -> Constraints:
        """`other`, and where it asks for nothing, these."""
        return replace(self, **{key: value for key, value in vars(other).items() if value is not None})


ANYTHING = Constraints()


def quantizer_setup(
    graph: Graph,
    *,
    preset: Literal["performance", "mixed"],
    target_device: str,
    weight_mode: Mode | None,
    activations: Constraints,
    of_operators: Mapping[str, Constraints],
    quantize_outputs: bool,
    ignored: Collection[str],
    model_type: str | None,
) -> Any:
    """NNCF's SingleConfigQuantizerSetup for `graph`.

    of_operators: constraints on what these nodes read, in place of `activations`.
    The device's table is extended by all that is asked for, so that it does not change where quantizers go, except that a tensor
    whose readers want it differently is quantized for each of them.
    """
    with _quiet_nncf():
        return _quantizer_setup(
            graph, preset, target_device, weight_mode, activations, of_operators, quantize_outputs, ignored, model_type
        )


def allowed(graph: Graph, target_device: str, of_weights: bool) -> dict[str, frozenset[tuple[int, str, bool]]]:
    """By node, the (bits, mode, per channel) that the device's table has for its weight, or for what it reads.

    Nodes of which the table says nothing, or that take what comes, are left out; so are all on ANY and TRIAL.
    """
    if target_device in ("ANY", "TRIAL"):
        return {}
    with _quiet_nncf():
        from nncf import TargetDevice

        table = _table_class()(TargetDevice(target_device)).get_metatype_vs_quantizer_configs_map(for_weights=of_weights)
        return {
            node.name: frozenset((c.num_bits, c.mode.value, c.per_channel) for c in table[_metatype(node)] or ())
            for node in graph.nodes
            if table.get(_metatype(node))
        }


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
    activations: Constraints,
    of_operators: Mapping[str, Constraints],
    quantize_outputs: bool,
    ignored: Collection[str],
    model_type: str | None,
) -> Any:
    import onnx
    from nncf import IgnoredScope, ModelType, QuantizationPreset, TargetDevice
    from nncf.common.quantization.quantizer_propagation.structs import QuantizationTrait
    from nncf.onnx.graph.metatypes import onnx_metatypes
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.algorithms.min_max.algorithm import MinMaxQuantization
    from nncf.quantization.algorithms.min_max.onnx_backend import ONNXMinMaxAlgoBackend

    asked = [_attributes(constraints) for constraints in {activations, *of_operators.values()}]

    class Table(_table_class()):  # type: ignore[misc]
        def get_metatype_vs_quantizer_configs_map(self, for_weights: bool = False) -> Any:
            table = super().get_metatype_vs_quantizer_configs_map(for_weights)
            return table if for_weights else {metatype: _extended(configs, asked) for metatype, configs in table.items()}

    class Backend(ONNXMinMaxAlgoBackend):
        @property
        def noop_metatypes(self) -> list[Any]:  # seen through, as NNCF's torch backend does
            return [onnx_metatypes.ONNXIdentityMetatype, onnx_metatypes.ONNXDropoutMetatype]

        @property
        def quant_trait_op_dict(self) -> Any:
            traits: Any = super().quant_trait_op_dict
            known = [*traits[QuantizationTrait.INPUTS_QUANTIZABLE], *_sequences().values()]
            return {**traits, QuantizationTrait.INPUTS_QUANTIZABLE: known}

        @property
        def hw_config(self) -> Any:
            return (lambda device: None) if target_device == "TRIAL" else Table

    class Algorithm(MinMaxQuantization):
        def _get_scope_overrides(self, inference_nncf_graph: Any) -> Any:
            overrides = super()._get_scope_overrides(inference_nncf_graph)
            for node, constraints in of_operators.items():
                overrides["activations"].setdefault(node, {}).update(_attributes(constraints))
            return overrides

    algorithm = Algorithm(
        preset=QuantizationPreset(preset),
        target_device=TargetDevice("ANY" if target_device == "TRIAL" else target_device),
        model_type=ModelType(model_type) if model_type else None,
        ignored_scope=IgnoredScope(names=sorted(ignored)),
        quantize_outputs=quantize_outputs,
        weights_quantization_params=QuantizationParameters(mode=_scheme(weight_mode)),
        activations_quantization_params=QuantizationParameters(**_attributes(activations)),
    )
    algorithm._backend_entity = Backend()
    which_backend = onnx.ModelProto()  # read for nothing else
    return algorithm.find_quantization_setup(which_backend, _nncf_graph(graph))


def _attributes(asked: Constraints) -> dict[str, Any]:
    """Constraints by NNCF's names, without those that ask for nothing."""
    named = {
        "num_bits": asked.bits,
        "mode": _scheme(asked.mode),
        "signedness_to_force": asked.signed,
        "per_channel": asked.per_channel,
    }
    return {name: value for name, value in named.items() if value is not None}


def _extended(configs: list[Any] | None, asked: list[dict[str, Any]]) -> list[Any] | None:
    """A table's list, and its entries as everyone who asks would have them."""
    if not configs:  # not quantized, or whatever comes
        return configs
    variants = [_changed(config, attributes) for attributes in asked for config in configs]
    return list(dict.fromkeys([*configs, *variants]))


def _changed(config: Any, attributes: dict[str, Any]) -> Any:
    from copy import copy

    changed = copy(config)
    for name, value in attributes.items():
        setattr(changed, name, value)
    return changed


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
        weight = next(iter(ops.weights(node)), None)  # of several, which have one point, the first
        attributes = {ops.weight_port(node): {"name": weight.name, "shape": weight.shape}} if weight else None
        result.add_nncf_node(
            node_name=node.name,
            node_type=_node_type(node),
            node_metatype=_metatype(node),
            layer_attributes=ONNXLayerAttributes(weight_attrs=attributes),
            node_id_override=ids[node.name],
            is_integer_input=node.op == INPUT and not any(_is_float(e.dtype) for e in graph.outputs_of.get(node.name, ())),
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
    if node.op in ops.RECURRENT:
        return (_cells() if node.attrs.get("cell") else _sequences())[node.op]
    special = {INPUT: InputNoopMetatype, OUTPUT: OutputNoopMetatype}
    op = _TREATED_AS.get(node.op, node.op)
    return special.get(op) or onnx_metatypes.ONNX_OPERATION_METATYPES.get_operator_metatype_by_op_name(op)


@cache
def _sequences() -> Mapping[str, Any]:
    """Classes for recurrent operators by type: NNCF's tables have rows for them, and its ONNX backend, in 3.4, no class.

    Of what they read it is the sequence that is quantized, not the first states.
    """
    return {op: _recurrent(op, ignored=range(1, 64)) for op in ops.RECURRENT}


@cache
def _cells() -> Mapping[str, Any]:
    """Classes for one step of them. Only their weights are quantized: a step is run as often as a sequence is long."""
    return {op: _recurrent(f"{op}Cell", ignored=range(64)) for op in ops.RECURRENT}


def _recurrent(name: str, ignored: Iterable[int]) -> Any:
    from nncf.common.hardware.opset import HWOpName
    from nncf.onnx.graph.metatypes.onnx_metatypes import ONNXOpWithWeightsMetatype

    row = HWOpName.GRU_SEQUENCE if name.startswith("GRU") else HWOpName.LSTM_SEQUENCE
    body = {"name": name, "op_names": [name], "hw_config_names": [row], "weight_port_ids": [1, 2], "weight_channel_axis": 1}
    return type(f"{name}Metatype", (ONNXOpWithWeightsMetatype,), {**body, "ignored_input_ports": list(ignored)})


@cache
def _table_class() -> Any:
    from nncf.onnx.hardware.config import ONNXHWConfig

    class Table(ONNXHWConfig):
        def _get_available_operator_metatypes_for_matching(self) -> Any:
            known = super()._get_available_operator_metatypes_for_matching()
            return [*known, *_sequences().values(), *_cells().values()]

    return Table
