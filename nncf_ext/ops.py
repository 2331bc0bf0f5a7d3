"""What the core knows about ONNX operator types: which of them own a weight worth compressing, and on which input port."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from nncf_ext.einsum import Equation
from nncf_ext.graph import INPUT, OUTPUT, Graph, Node, Parameter

# Operator type -> input port that ONNX gives the weight, where the graph states no other.
_WEIGHT_PORTS: Mapping[str, int] = MappingProxyType({"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0})

# Layers over a sequence, or one step of one: each of their matrices is a weight, of whatever name.
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

# Slots of parameters that hold what a normalization measured: no part of its arithmetic that is learned.
STATISTICS = frozenset({"mean", "variance"})


def weights(node: Node) -> tuple[Parameter, ...]:
    """The parameters that the node multiplies with, or looks up in: one, but for recurrent operators."""
    if node.op in RECURRENT:
        return tuple(parameter for parameter in node.parameters if parameter.input_axis is not None)
    weight = node.parameter("weight") if node.op in _WEIGHT_PORTS else None
    return () if weight is None else (weight,)


def has_weight(node: Node) -> bool:
    """Whether the node multiplies with, or looks up in, a weight of its own."""
    return bool(weights(node))


@dataclass(frozen=True)
class Cell:
    """A cell of a recurrent operator. kernel, recurrence: (gates * units, inputs) and (gates * units, outputs), or transposed.
    projection: (outputs, units) of an LSTM whose outputs are not its units."""

    kernel: Parameter
    recurrence: Parameter
    projection: Parameter | None = None
    biases: tuple[Parameter, ...] = ()

    @property
    def size(self) -> int:
        """Number of hidden units."""
        reader = self.projection or self.recurrence
        return 1 if reader.input_axis is None else reader.shape[reader.input_axis]


def cells(node: Node) -> tuple[tuple[Cell, ...], ...]:
    """The cells of every direction of a recurrent operator, in the order in which they run; none where it does not tell."""

    def cell(slots: Iterable[str]) -> Cell:
        parameters = [parameter for slot in slots if (parameter := node.parameter(slot)) is not None]
        kernel, recurrence, *projection = [parameter for parameter in parameters if parameter.input_axis is not None]
        biases = tuple(parameter for parameter in parameters if parameter.input_axis is None)
        return Cell(kernel, recurrence, next(iter(projection), None), biases)

    return tuple(tuple(cell(slots) for slots in stack) for stack in node.attrs.get("directions", ()))


def makers(node: Node) -> tuple[Parameter, ...]:
    """The weights that make the node's output channels; of those that make the same ones, the first."""
    if node.op not in RECURRENT:
        return weights(node)
    each = (weight for stack in cells(node) for cell in stack for weight in (cell.kernel, cell.projection))
    return tuple(weight for weight in each if weight is not None)


def channels_of(node: Node, weight: Parameter) -> int:
    """How many output channels a weight of the node makes: of a recurrent operator, hidden units."""
    for cell in (cell for stack in cells(node) for cell in stack):
        if weight in (cell.kernel, cell.recurrence):
            return cell.size
    if node.op in RECURRENT:
        return 1 if weight.channel_axis is None else weight.shape[weight.channel_axis]
    return math.prod(weight.shape[axis] for axis in output_axes(node))


def weight_port(node: Node) -> int:
    """Input port of the weight, of a node that has one (a MatMul may have it on either side)."""
    port = weights(node)[0].port
    return _WEIGHT_PORTS[node.op] if port is None else port


def output_axes(node: Node) -> tuple[int, ...]:
    """Axes of the weight, of a node that has one and is not recurrent, that reach the output: together they are its channels.
    The others are summed over, or are those of a kernel."""
    weight = node.parameter("weight")
    equation = node.attrs.get("equation")  # "abc,cde->abde"
    if equation is not None:
        product = Equation.parse(equation)
        return tuple(axis for axis, label in enumerate(product.weight) if label in product.output)
    return (0 if weight is None or weight.channel_axis is None else weight.channel_axis,)


def why_inputs_differ(graph: Graph, node: Node, weight: Parameter) -> str | None:
    """Why the outputs of a convolution do not all read the same inputs, or are not known to; None where they do."""
    if is_depthwise(node) or node.attrs.get("groups", 1) != 1:
        return "a convolution in groups: its outputs do not read the same inputs"
    if weight.input_axis is None or weight.channel_axis is None:
        return "nothing says which axis of its weight is of the inputs"
    read = next((edge.shape for edge in graph.inputs_of.get(node.name, ())), ())
    if weight.shape[weight.input_axis] not in (read[1:2] + read[-1:]):
        return "a convolution in groups: its outputs do not read the same inputs"
    return None


def without_empty(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes; those with a parameter that has no element become opaque: there is nothing in them to compress."""

    def known(node: Node) -> Node:
        is_empty = any(0 in parameter.shape for parameter in node.parameters)
        return replace(node, op=f"{node.op} of an empty tensor") if is_empty else node

    return tuple(map(known, nodes))


def is_opaque(node: Node) -> bool:
    """Whether ONNX has no such operator: nothing is known of what it computes, and it is left alone."""
    from onnx import defs

    return node.op not in (INPUT, OUTPUT) and not defs.has(node.op)


def is_depthwise(node: Node) -> bool:
    """Whether every input channel of this convolution has filters of its own (adapters state it as attribute `depthwise`)."""
    return node.op == "Conv" and bool(node.attrs.get("depthwise"))


def is_channels_last(node: Node) -> bool:
    """Whether its tensors are said to have their channels in the last axis; the others have them behind the batch."""
    return node.attrs.get("data_format") == "channels_last"


def is_embedding(node: Node) -> bool:
    """Whether the node looks rows up in a weight."""
    return node.op == "Gather" and has_weight(node)
