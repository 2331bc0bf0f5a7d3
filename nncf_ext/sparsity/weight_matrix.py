"""A linear layer's weight as a matrix of outputs and inputs, however a framework lays it out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nncf_ext.einsum import Equation
from nncf_ext.graph import Node, Parameter


@dataclass(frozen=True)
class WeightMatrix:
    """shape: (rows, columns) in the parameter's own order. outputs_first: whether the rows are the outputs."""

    shape: tuple[int, int]
    outputs_first: bool

    @property
    def outputs(self) -> int:
        return self.shape[0] if self.outputs_first else self.shape[1]

    @property
    def inputs(self) -> int:
        return self.shape[1] if self.outputs_first else self.shape[0]


def weight_matrix(node: Node, weight: Parameter) -> WeightMatrix | str:
    """How `weight` is a matrix, or why it is none."""
    rank = len(weight.shape)
    if "equation" in node.attrs:
        product = Equation.parse(node.attrs["equation"])
        is_output = [label in product.output and label not in product.data for label in product.weight]
        if any(label in product.data and label in product.output for label in product.weight):
            return "its weight has an axis that is neither summed over nor an output of its own"
    elif rank == 2 and weight.channel_axis is not None:
        is_output = [axis == weight.channel_axis % rank for axis in range(rank)]
    else:
        return f"its weight has {rank} axes, and nothing says which are outputs"
    first = is_output.index(not is_output[0]) if len(set(is_output)) == 2 else rank
    if first == rank or len(set(is_output[first:])) > 1:
        return "its weight has no outputs side by side, and inputs side by side"
    return WeightMatrix((math.prod(weight.shape[:first]), math.prod(weight.shape[first:])), is_output[0])
