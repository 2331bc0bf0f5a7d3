"""Numbers of channels that a Functional model states in operations: targets of reshapes, places of splits and slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nncf_ext.channels.groups import channels_left
from nncf_ext.channels.shrinking import Changes
from nncf_ext.edits import Removal
from nncf_ext.graph import Graph, Node, Site
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.trace import KerasTrace

_FITTED = ("Reshape", "Expand", "Split", "Slice")


def fit_operations(traced: KerasTrace, removals: Sequence[Removal], changes: Changes) -> None:
    """Have operations say what `removals` leave. What the user's own `call` says stays."""
    graph = traced.graph
    nodes = [
        (node, place.owner) for node in graph.nodes if node.op in _FITTED and (place := _called_at(traced, node)) is not None
    ]
    left = channels_left(graph, removals) if nodes else {}
    for node, operation in nodes:
        edge = graph.inputs_of[node.name][0]
        taken, made = left.get((edge.source, edge.source_port)), left.get((node.name, 0))
        name = keras_private.size_attribute(operation)
        if name is not None and node.op == "Split" and taken is not None:
            if not isinstance(points := getattr(operation, name), int):
                _set(operation, name, tuple(_moved(points, taken[1], edge.shape[taken[0]])), changes)
        elif name is not None and node.op != "Split" and made is not None:
            _set(operation, name, _shorter(graph, node, getattr(operation, name), *made), changes)
        elif keras_private.is_index(operation) and taken is not None:
            _fit_index(operation, taken[0], taken[1], edge.shape, changes)


def _called_at(traced: KerasTrace, node: Node) -> Any:
    """Place of the node's input, where it is a layer or an operation of a Functional model."""
    place = traced.places.get(Site(node.name, "input:0"))
    return place if place is not None and place.point == "input" else None


def _set(operation: Any, name: str, value: tuple[int, ...], changes: Changes) -> None:
    changes.set_all(operation, {name: value, **keras_private.automatic_config(operation, {name: value})})


def _shorter(graph: Graph, node: Node, target: Sequence[int], axis: int, kept: np.ndarray) -> tuple[int, ...]:
    """A target shape with the channels that are left; a layer's is without the batch."""
    at = axis - len(graph.outputs_of[node.name][0].shape) + len(target)
    return tuple(len(kept) if index == at and size != -1 else size for index, size in enumerate(target))


def _moved(points: Sequence[int], kept: np.ndarray, size: int) -> list[int]:
    """Where places along an axis of `size` are, when only `kept` are left of it."""
    return [int(np.searchsorted(kept, point + size if point < 0 else point)) for point in points]


def _fit_index(operation: Any, axis: int, kept: np.ndarray, shape: Sequence[int], changes: Changes) -> None:
    """`x[..., 4:]` of fewer channels. A slice with a step stays: what it picks may not be regular any more."""
    x, key = keras_private.arguments_of(operation).args
    items = list(key) if isinstance(key, tuple | list) else [key]
    named = sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    items[at : at + 1] = [slice(None)] * (len(shape) - named)
    place = [index for index, item in enumerate(items) if item is not None][axis]
    item = items[place]
    if isinstance(item, int):
        items[place] = _moved([item], kept, shape[axis])[0]
    elif isinstance(item, slice) and item.step in (None, 1):
        ends = [None if end is None else _moved([end], kept, shape[axis])[0] for end in (item.start, item.stop)]
        items[place] = slice(*ends)
    keras_private.give_arguments(operation, (x, tuple(items)), changes)
