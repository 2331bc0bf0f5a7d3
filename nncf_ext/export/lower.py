"""The common export pass: from a float graph with marked quantizers to an ONNX graph that runs in integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from nncf_ext.export.activations import lower_activations
from nncf_ext.export.bias import integer_biases
from nncf_ext.export.constants import constant, fold_constants
from nncf_ext.export.fold import fold_batchnorm
from nncf_ext.export.marked import DOMAIN, FloatLevels, Levels, is_marker, key_of
from nncf_ext.export.rewiring import bypass
from nncf_ext.export.straight_through import drop_straight_through
from nncf_ext.export.summed_scales import float_where_scales_are_summed_over
from nncf_ext.export.weights import lower_weights


def lower(model: ir.Model, grids: Mapping[str, Levels | FloatLevels]) -> ir.Model:
    """Change `model` in place: markers to QuantizeLinear/DequantizeLinear, BatchNorm folded, biases int32. Returns it.

    grids: by marker key. ValueError where a quantizer is inside a branch or loop, which no pass reaches.
    """
    graph = model.graph
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_identities(graph)
    drop_straight_through(graph)
    fold_constants(graph)
    lower_weights(graph, grids)
    float_where_scales_are_summed_over(graph)
    fold_batchnorm(graph)
    lower_activations(graph, grids)
    integer_biases(graph)
    left = [key_of(node) for node in graph.all_nodes() if is_marker(node)]
    if left:
        raise ValueError(f"{left[0]}: the quantizer is inside a branch or loop of the exported model, expected the main graph")
    common.RemoveUnusedNodesPass()(model)
    _make_contiguous(graph)
    common.DeduplicateHashedInitializersPass()(model)
    common.NameFixPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    graph.opset_imports.pop(DOMAIN, None)
    return model


def _drop_identities(graph: ir.Graph) -> None:
    """Remove Identity and inference-mode Dropout, but where one joins an input of the model to an output."""
    for node in list(graph):
        x = node.inputs[0] if node.inputs else None
        if node.domain != "" or node.op_type not in ("Identity", "Dropout") or x is None:
            continue
        if node.outputs[0].is_graph_output() and (x.is_graph_input() or x.is_initializer() or x.is_graph_output()):
            continue
        if len(node.outputs) == 1 or not node.outputs[1].uses():
            bypass(node, x)


def _make_contiguous(graph: ir.Graph) -> None:
    """Hashing reads initializers byte by byte, and torch exports some as transposed views."""
    for value in graph.initializers.values():
        array = constant(value)
        if array is not None and not array.flags.c_contiguous:
            value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
