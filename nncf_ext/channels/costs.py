"""Floating-point operations and parameters of a traced model, also as they are when channels are taken away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nncf_ext.graph import INPUT, Graph, Node, Parameter, Site
from nncf_ext.ops import RECURRENT, STATISTICS, is_channels_last, output_axes, weights

Removed = Mapping[tuple[str, int], int]  # (name of a parameter, axis) -> how many indices are gone


@dataclass(frozen=True)
class Cost:
    """flops: multiplications and additions for one sample in layers with weights.
    parameters: numbers in all layers that the graph knows, without the statistics of normalizations.
    """

    flops: int
    parameters: int


class CostModel:
    """Every element of a weight is multiplied and added once at each position of the output (of the input, for a transposed
    convolution): 2 * elements * positions. Lookups and products of two activations count nothing.

    unknown_sizes: nodes with a spatial size that the graph does not know; each counts as 1.
    """

    def __init__(self, graph: Graph):
        self._row: dict[str, int] = {}
        shapes: list[tuple[int, ...]] = []
        uses: list[int] = []
        unknown: list[str] = []
        batch = _batch_size(graph)
        for node in graph.nodes:
            for parameter in node.parameters:
                if parameter.slot in STATISTICS:
                    continue
                if parameter.name not in self._row:
                    self._row[parameter.name] = len(shapes)
                    shapes.append(parameter.shape)
                    uses.append(0)
            for weight in multiplied(node):
                positions, is_known = _positions(graph, node, batch)
                uses[self._row[weight.name]] += positions
                if not is_known:
                    unknown.append(node.name)
        rank = max((len(shape) for shape in shapes), default=1)
        self._shapes = np.array([[*shape, *[1] * (rank - len(shape))] for shape in shapes], np.int64).reshape(-1, rank)
        self._uses = np.array(uses, np.int64)
        self.unknown_sizes = tuple(unknown)

    def cost(self, removed: Removed) -> Cost:
        """The cost without the indices that are `removed` along axes of parameters."""
        shapes = self._shapes.copy()
        for (name, axis), count in removed.items():
            if name in self._row:
                shapes[self._row[name], axis] -= count
        sizes = shapes.prod(axis=1)
        return Cost(int(2 * (sizes * self._uses).sum()), int(sizes.sum()))


def flops(graph: Graph) -> dict[Site, int]:
    """The same count for each weight that a node multiplies with."""
    batch = _batch_size(graph)
    return {
        Site(node.name, weight.slot): 2 * math.prod(weight.shape) * _positions(graph, node, batch)[0]
        for node in graph.nodes
        for weight in multiplied(node)
    }


def multiplied(node: Node) -> tuple[Parameter, ...]:
    """The weights that a node multiplies with: not those that it looks up in."""
    return () if node.op == "Gather" else weights(node)


def _batch_size(graph: Graph) -> int:
    """Of the example the graph was traced with; 1 where it is left open."""
    first = next((node.name for node in graph.nodes if node.op == INPUT), "")
    shapes = [edge.shape for edge in graph.outputs_of.get(first, ()) if edge.shape]
    return max(shapes[0][0], 1) if shapes else 1


def _positions(graph: Graph, node: Node, batch: int) -> tuple[int, bool]:
    """How often one sample uses each element of the node's weight, and whether all sizes in that are known."""
    if node.op in RECURRENT:
        return _steps(graph, node, batch)
    edges = (graph.inputs_of if node.op == "ConvTranspose" else graph.outputs_of).get(node.name, ())
    shape = edges[0].shape if edges else ()
    if not shape:
        return 1, False
    if node.op in ("Conv", "ConvTranspose"):
        places = shape[1:-1] if is_channels_last(node) else shape[2:]
        return math.prod(max(size, 1) for size in places), all(size > 0 for size in places)
    weight = node.parameter("weight")
    assert weight is not None
    made = math.prod(weight.shape[axis] for axis in output_axes(node))
    known = math.prod(max(size, 1) for size in shape)
    return max(known // made // batch, 1), all(size > 0 for size in shape[1:])


def _steps(graph: Graph, node: Node, batch: int) -> tuple[int, bool]:
    """The length of the sequence that a recurrent operator reads; 1 for one step."""
    read = next((edge.shape for edge in graph.inputs_of.get(node.name, ()) if edge.target_port == 0), ())
    if not read:
        return 1, False
    known = math.prod(max(size, 1) for size in read[:-1])
    return max(known // batch, 1), sum(size < 0 for size in read[:-1]) <= 1
