"""Fourier transforms in exported files: complex numbers are a last axis of size two there, as in ONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from nncf_ext.export.constants import add_constant
from nncf_ext.export.rewiring import replace_node

_AXES = {"FFT": 1, "FFT2D": 2, "FFT3D": 3, "IFFT": 1, "IFFT2D": 2, "IFFT3D": 3}  # how many are transformed, from the last
_PARTS = {"Real": 0, "Imag": 1}


def write_fourier(graph: ir.Graph) -> None:
    """Translate TensorFlow's operators, unless others of its operators read complex numbers, too."""
    nodes = [node for node in graph if node.domain == "" and node.op_type in {"Complex", *_AXES, *_PARTS}]
    complex_valued = [node for node in nodes if node.op_type not in _PARTS]
    if any(user not in nodes for node in complex_valued for user, _ in node.outputs[0].uses()):
        return
    for node in nodes:
        if node.op_type == "Complex":
            made = _joined(graph, node)
        elif node.op_type in _PARTS:
            part = add_constant(graph, f"{node.name}_part", np.array(_PARTS[node.op_type], np.int64))
            made = [ir.node("Gather", [node.inputs[0], part], {"axis": -1})]
        else:
            made = []
            for axis in range(_AXES[node.op_type]):
                source = made[-1].outputs[0] if made else node.inputs[0]
                made.append(ir.node("DFT", [source], {"axis": -2 - axis, "inverse": int(node.op_type[0] == "I")}))
        graph.insert_before(node, made)
        replace_node(node, made[-1])


def _joined(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    last = add_constant(graph, f"{node.name}_last", np.array([-1], np.int64))
    parts = [ir.node("Unsqueeze", [part, last]) for part in node.inputs]
    return [*parts, ir.node("Concat", [part.outputs[0] for part in parts], {"axis": -1})]
