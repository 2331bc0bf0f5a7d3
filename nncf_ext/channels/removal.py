"""Channels that leave a model: the removals of several algorithms together, and what stays of the transforms' variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nncf_ext.channels.groups import channels_left
from nncf_ext.edits import Edit, Removal, Var
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph, Site


def merge_removals(removals: Iterable[Removal]) -> tuple[Removal, ...]:
    """One removal for each axis of a parameter, which keeps what all of them keep."""
    kept: dict[tuple[Site, int], set[int]] = {}
    for removal in removals:
        kept.setdefault((removal.site, removal.axis), set(removal.keep)).intersection_update(removal.keep)
    return tuple(Removal(site, axis, tuple(sorted(keep))) for (site, axis), keep in kept.items())


def variables_left(
    edit: Edit, values: Mapping[str, np.ndarray], before: Graph, after: Graph, removals: Sequence[Removal]
) -> dict[str, Var]:
    """The edit's variables for the smaller model, with the values of the channels that it still has.

    values: of the edit in the model `before`, in the broadcastable shape of its tensor; `after`: the smaller model. ConfigError
    where a variable has a value per channel of an activation whose channels cannot be told.
    """
    old, new = before.shape_of(edit.site), after.shape_of(edit.site)
    if old != new and getattr(edit.transform, "group_size", None) is not None:
        raise ConfigError(
            f"{edit.site}: found channels removed from a weight with ranges by groups of inputs, expected no "
            '"group_size" there, or no pruning'
        )
    found = {}
    for name, value in values.items():
        for axis in [a for a in range(len(old)) if old[a] != new[a]] if value.ndim == len(old) else ():
            if value.shape[axis] == old[axis]:
                value = value.take(_indices_left(before, removals, edit.site, axis, (old[axis], new[axis])), axis)
        found[name] = Var(value)
    return found


def _indices_left(graph: Graph, removals: Sequence[Removal], site: Site, axis: int, sizes: tuple[int, int]) -> tuple[int, ...]:
    """The indices that are left along `axis` of the tensor at a site, of which sizes[1] of sizes[0] are."""
    if site.is_parameter:
        name = graph.parameter_at(site).name
        candidates = [r for r in removals if graph.parameter_at(r.site).name == name and r.axis == axis]
    else:
        source = (site.node, 0)
        if site.port is not None:
            source = next((e.source, e.source_port) for e in graph.inputs_of[site.node] if e.target_port == site.port)
        shorter, left = channels_left(graph, removals).get(source, (None, ()))
        if (shorter, len(left)) == (axis, sizes[1]):
            return tuple(int(index) for index in left)
        candidates = []
    for removal in candidates:
        if (graph.parameter_at(removal.site).shape[removal.axis], len(removal.keep)) == sizes:
            return removal.keep
    raise ConfigError(
        f"{site}: a quantizer has a range per channel here, and which {sizes[1]} of {sizes[0]} channels are left cannot be told; "
        'set "per_channel" to false for activations'
    )
