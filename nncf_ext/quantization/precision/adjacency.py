"""Which quantizers meet: those that an operator computes with, and the groups that follow from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nncf_ext.edits import Edit


@dataclass(frozen=True)
class Group:
    """Weights and activations (edit keys, in the plan's order) that meet in operators, directly or through others of them."""

    weights: tuple[str, ...]
    activations: tuple[str, ...]


def operators_of(quantizers: Sequence[Edit]) -> dict[str, frozenset[str]]:
    """Edit key -> nodes that compute with the quantized tensor."""
    return {
        edit.key: frozenset(site.node for site in edit.sites) if edit.site.is_parameter else frozenset(edit.operators)
        for edit in quantizers
    }


def groups(quantizers: Sequence[Edit], operators: Mapping[str, frozenset[str]]) -> tuple[Group, ...]:
    """A partition of `quantizers`: two are in one group where an operator computes with both."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = sorted({node for edit in quantizers for node in operators[edit.key]})
    column = {node: len(quantizers) + index for index, node in enumerate(nodes)}
    pairs = [(row, column[node]) for row, edit in enumerate(quantizers) for node in operators[edit.key]]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    size = len(quantizers) + len(nodes)
    _, labels = connected_components(coo_array((np.ones(len(pairs)), (rows, columns)), (size, size)), directed=False)
    members: dict[int, list[Edit]] = {}
    for edit, label in zip(quantizers, labels[: len(quantizers)].tolist(), strict=True):
        members.setdefault(label, []).append(edit)
    return tuple(
        Group(
            tuple(edit.key for edit in group if edit.site.is_parameter),
            tuple(edit.key for edit in group if not edit.site.is_parameter),
        )
        for group in members.values()
    )
