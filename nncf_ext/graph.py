"""A read-only snapshot of a traced model: what the algorithms see of it.

Operators are named by their ONNX operator type ("Conv", "Gemm", "MatMul", "Add", ...), in both frameworks; an operator that
has none keeps the framework's own name and is opaque: it is never compressed, and reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

INPUT = "Input"
OUTPUT = "Output"


@dataclass(frozen=True, order=True)
class Site:
    """A tensor of the model, where a transform can be placed: a parameter (`weight`, `bias`, ...), `input:<port>` or `output`."""

    node: str
    slot: str

    def __str__(self) -> str:
        return f"{self.node}|{self.slot}"

    @property
    def label(self) -> str:
        """What people are told of the weight at a site: its node and, where that has several weights, which one."""
        return self.node if self.slot == "weight" else str(self)

    @classmethod
    def parse(cls, text: str) -> Site:
        node, _, slot = text.rpartition("|")
        return cls(node, slot)

    @property
    def is_parameter(self) -> bool:
        return self.slot != "output" and not self.slot.startswith("input:")

    @property
    def port(self) -> int | None:
        """Input port of an `input:<port>` site, else None."""
        return int(self.slot.partition(":")[2]) if self.slot.startswith("input:") else None


@dataclass(frozen=True)
class Parameter:
    """A weight that a node owns.

    slot: `weight` for the main one and `bias` for the bias; `operand` for one that is only laid out for another operator (a
        class token that is expanded). A recurrent layer has several weights, and calls them by their names in the layer.
    name: the framework's own full name. Two nodes that share a parameter show the same name.
    channel_axis: axis of the output channels in `shape` (for an embedding: the axis of the embedding vector).
    input_axis: axis of the input channels, of a Conv's, Gemm's, MatMul's or recurrent operator's weight.
    port: the input port that ONNX's operator gives this parameter (Conv, Gemm, MatMul 1, Gather 0; bias 2; of a recurrent one
        1 for inputs, 2 for the recurrence).
    made_by: what computes it from other parameters in each forward, in words; nobody can write into such a weight.
    """

    slot: str
    name: str
    shape: tuple[int, ...]
    channel_axis: int | None = None
    port: int | None = None
    trainable: bool = True
    input_axis: int | None = None
    made_by: str = ""


@dataclass(frozen=True)
class Node:
    """One executed operator. `module` is the framework's path of the layer that ran it ("" where none did).

    attrs: what the core knows of it, by ONNX's names where ONNX has one: `axis`, `axes`, `keepdims`, `perm`, `pads`, `mode`,
    `value`, `min`, `max`, `equation`, `num_groups`, `blocksize`, `repeats`, `num_outputs`, `new_axis`, and `split` (sizes).
    Beside these:
    groups, depthwise, kernel, strides, pads (or auto_pad), dilations: of a convolution. data_format: `channels_last` or
    `channels_first`.
    index: of a Slice, numpy's (slices, whole numbers, None, Ellipsis). indices: of a Gather, where they are constants.
    exponent: of a Pow, where it is a number. head_axis: of an Attention, where it is not the third last one.
    directions: of a recurrent operator, for each the cells in the order in which they run, a cell as the slots of its parameters.
    states, results: of it, by input and output port, (axis, ((cell, state), ...)): states of cells (numbered through all
    directions; 0 is what a cell puts out, 1 an LSTM's memory), one after the other along the axis, or combined (None).
    never_zero: its states are not zero where all of their weights are. stateful: it begins where it ended.
    constants: shapes, by port, of operands that are no parameters and do not depend on the model's inputs.
    reads: names of parameters of which it needs all channels; and of those that it reads and that are not among `parameters`.
    scattered_output: its results are not one tensor that is passed on, so that there is no `output` site.
    """

    name: str
    op: str
    module: str = ""
    parameters: tuple[Parameter, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def parameter(self, slot: str) -> Parameter | None:
        return next((p for p in self.parameters if p.slot == slot), None)


@dataclass(frozen=True)
class Edge:
    """A tensor on its way from one node's output port to another's input port. Unknown dimensions are -1."""

    source: str
    target: str
    source_port: int = 0
    target_port: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order and the tensors between them. Inputs and outputs of the model are nodes too.

    unowned: shapes of the parameters that the model has and no node owns, by name.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    unowned: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return MappingProxyType({node.name: node for node in self.nodes})

    @cached_property
    def inputs_of(self) -> Mapping[str, tuple[Edge, ...]]:
        return _group(self.edges, key=lambda edge: edge.target, order=lambda edge: edge.target_port)

    @cached_property
    def outputs_of(self) -> Mapping[str, tuple[Edge, ...]]:
        return _group(self.edges, key=lambda edge: edge.source, order=lambda edge: edge.source_port)

    @cached_property
    def owners_of(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that own a parameter, by its name; several where they share it."""
        owners: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(p.name for p in node.parameters):
                owners.setdefault(name, []).append(node)
        return MappingProxyType({name: tuple(nodes) for name, nodes in owners.items()})

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Numbers in each parameter, by its name."""
        return MappingProxyType({p.name: math.prod(p.shape) for node in self.nodes for p in node.parameters})

    def size_of(self, sites: Iterable[Site]) -> int:
        """Numbers in the parameters among `sites`, those that nodes share counted once."""
        parameters = (self[site.node].parameter(site.slot) for site in sites if site.is_parameter)
        return sum(self.sizes[name] for name in {p.name for p in parameters if p is not None})

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def first_reached(self, wanted: Callable[[Node], bool]) -> set[str]:
        """The `wanted` nodes that the model's inputs reach before any other such node."""
        found: set[str] = set()
        seen: set[str] = set()
        frontier = [node.name for node in self.nodes if node.op == INPUT]
        while frontier:
            name = frontier.pop()
            if name in seen:
                continue
            seen.add(name)
            if wanted(self[name]):
                found.add(name)
            else:
                frontier.extend(edge.target for edge in self.outputs_of.get(name, ()))
        return found

    def parameter_at(self, site: Site) -> Parameter:
        """KeyError where the graph has no such parameter."""
        parameter = self[site.node].parameter(site.slot)
        if parameter is None:
            raise KeyError(str(site))
        return parameter

    def shape_of(self, site: Site) -> tuple[int, ...]:
        """Shape of the tensor at `site`; KeyError where the graph has no such tensor."""
        if site.is_parameter:
            return self.parameter_at(site).shape
        if site.port is None:
            edges = self.outputs_of.get(site.node, ())
        else:
            edges = tuple(e for e in self.inputs_of.get(site.node, ()) if e.target_port == site.port)
        if not edges:
            raise KeyError(str(site))
        return edges[0].shape


def _group(edges: Iterable[Edge], key: Any, order: Any) -> Mapping[str, tuple[Edge, ...]]:
    groups: dict[str, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(key(edge), []).append(edge)
    return MappingProxyType({name: tuple(sorted(group, key=order)) for name, group in groups.items()})
