"""What is left of straight-through gradients in an exported graph: y + (x - x)."""

from __future__ import annotations

import onnx_ir as ir

from nncf_ext.export.rewiring import bypass


def drop_straight_through(graph: ir.Graph) -> None:
    """Replace `y + (x - x)` by y. `numerics.straight_through` computes it for its gradient; for finite x it is y."""
    for node in list(graph):
        if node.domain != "" or node.op_type != "Add":
            continue
        for y, nothing in (node.inputs, reversed(node.inputs)):
            difference = nothing.producer() if nothing is not None else None
            if difference is None or difference.domain != "" or difference.op_type != "Sub" or y is None:
                continue
            if difference.inputs[0] is difference.inputs[1]:
                bypass(node, y)
                break
