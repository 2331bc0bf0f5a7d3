"""Recurrent layers in the file. Their weights are float numbers that stand on the grid: behind a DequantizeLinear ONNX Runtime
decodes them in every run, which is slower than float. Its integer LSTM takes their codes, and quantizes what it reads by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from nncf_ext.edits import Edit
from nncf_ext.export.constants import add_constant, constant
from nncf_ext.export.marked import FloatLevels, Levels
from nncf_ext.graph import Graph
from nncf_ext.ops import RECURRENT

DOMAIN = "com.microsoft"
_GATES = (0, 3, 1, 2)  # ONNX has input, output, forget, cell, both frameworks input, forget, cell, output


def stays_float(graph: Graph, edit: Edit) -> bool:
    """Whether the edit is of a recurrent weight, which adapters write as the numbers that its transforms make."""
    return any(site.is_parameter and graph[site.node].op in RECURRENT for site in edit.sites)


def steps_of(graph: Graph, edits: Iterable[Edit], grids: Mapping[str, Levels | FloatLevels]) -> list[np.ndarray]:
    """For the quantizers of LSTMs' weights their steps: one, or one for each row of (gates * channels), in ONNX's order."""
    found = []
    for edit in edits:
        grid = grids.get(edit.key)
        if not isinstance(grid, Levels) or not stays_float(graph, edit) or graph[edit.site.node].op != "LSTM":
            continue
        step = np.asarray(grid.step, np.float32).reshape(-1)
        found.append(np.concatenate([np.split(step, 4)[gate] for gate in _GATES]) if step.size > 1 else step)
    return found


def in_integers(model: ir.Model, steps: Sequence[np.ndarray]) -> bool:
    """Change the LSTMs of which all weights are codes times one of `steps`, bit for bit, to `DynamicQuantizeLSTM`; whether there
    was one. It quantizes the sequence and every hidden state to 8 bits by their own ranges, so that results differ a little.
    """
    changed = False
    for node in list(model.graph):
        inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
        if node.domain != "" or node.op_type != "LSTM" or inputs[7] is not None or node.attributes.get_int("layout", 0):
            continue
        coded = [_coded(constant(value), steps) for value in inputs[1:3]]
        if coded[0] is None or coded[1] is None:
            continue
        operands: list[ir.Value | None] = []
        for value, (codes, scale) in zip(inputs[1:3], (coded[0], coded[1]), strict=True):
            name = str(value.name) if value is not None else ""
            own = (codes.transpose(0, 2, 1), scale, np.zeros(scale.shape, np.int8))
            ends = ("codes", "scale", "zero_point")
            operands += [add_constant(model.graph, f"{name}_{end}", array) for array, end in zip(own, ends, strict=True)]
        w, w_scale, w_zero, r, r_scale, r_zero = operands
        others = [name for name in node.attributes if name not in ("layout", "input_forget")]
        new = ir.Node(
            DOMAIN,
            "DynamicQuantizeLSTM",
            [inputs[0], w, r, *inputs[3:7], None, w_scale, w_zero, r_scale, r_zero],
            [node.attributes[name] for name in others],
            num_outputs=len(node.outputs),
            name=node.name,
        )
        model.graph.insert_before(node, new)
        for old, made in zip(node.outputs, new.outputs, strict=True):
            made.name, made.type, made.shape = old.name, old.type, old.shape
            old.replace_all_uses_with(made, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        changed = True
    if changed:
        model.graph.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
    return changed


def _coded(weight: np.ndarray | None, steps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """(codes, steps by direction and row) of the weights (directions, gates * channels, inputs)."""
    found = []
    for matrix in () if weight is None else weight:
        for step in steps:
            if step.size not in (1, len(matrix)):
                continue
            row = np.broadcast_to(step, len(matrix))[:, None]
            codes = np.round(matrix / row)
            if np.abs(codes).max(initial=0) <= 127 and (codes * row == matrix).all():
                found.append((codes.astype(np.int8), row[:, 0]))
                break
        else:
            return None
    return (np.stack([codes for codes, _ in found]), np.stack([row for _, row in found])) if found else None
