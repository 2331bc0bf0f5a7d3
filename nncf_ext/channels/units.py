"""The units that `channels.py` counts: one for each index along an axis of a parameter, joined where they go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nncf_ext.graph import Node, Parameter, Site

Role = Literal["output", "input", "follower"]
_Key = tuple[str, tuple[int, ...]]  # a parameter's name, and axes of it


@dataclass(frozen=True)
class Dimension:
    """Axes of a parameter that are counted together. ids: of `shape`, collapsed; role: the strongest of its uses."""

    site: Site
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    ids: np.ndarray
    role: Role


class Units:
    """Numbers of units for the axes of parameters, found in several passes over a model.

    A pass hands numbers out (`of`), and notes which are the same (`link`) and which cannot be removed (`block`). `join` gives
    the same number to what was linked; in the next pass that is known from the start. -1 stands for what is no unit.
    """

    def __init__(self) -> None:
        self.number = 0
        self.reasons: dict[int, str] = {}
        self._numbers: dict[_Key, np.ndarray] = {}  # for the axes of each parameter
        self._uses: dict[_Key, list[tuple[Site, Role]]] = {}
        self._kept: set[tuple[str, int | None]] = set()
        self._links: list[np.ndarray] = []

    def begin(self) -> None:
        """Start a pass: reasons and uses are found anew."""
        self.reasons = {}
        self._uses = {}
        self._kept = set()

    def of(self, node: Node, parameter: Parameter, axes: tuple[int, ...], role: Role) -> np.ndarray:
        """Units of `axes` of a parameter, in that order, for a use of them: an array of the axes' sizes."""
        key = (parameter.name, axes)
        if key not in self._numbers:
            shape = tuple(parameter.shape[axis] for axis in axes)
            size = math.prod(shape)
            self._numbers[key] = np.arange(self.number, self.number + size).reshape(shape)
            self.number += size
        self._uses.setdefault(key, []).append((Site(node.name, parameter.slot), role))
        return self._numbers[key]

    def made(self, tensor: str, size: int) -> np.ndarray:
        """Units of a tensor that no parameter makes, by its name: they are those of what it meets."""
        key = (tensor, (0,))
        if key not in self._numbers:
            self._numbers[key] = np.arange(self.number, self.number + size)
            self.number += size
        return self._numbers[key]

    def keep(self, parameter: str, axes: Iterable[int] | None = None) -> None:
        """The entries of a parameter along `axes` (None: all) stay: no layer that shares it may lose them."""
        self._kept.update([(parameter, None)] if axes is None else [(parameter, axis) for axis in axes])

    def link(self, a: np.ndarray, b: np.ndarray) -> None:
        """Units at the same place (after broadcasting) are the same."""
        a, b = np.broadcast_arrays(a, b)
        differ = (a != b) & (a >= 0) & (b >= 0)
        if differ.any():
            self._links.append(np.stack([a[differ], b[differ]]))

    def block(self, ids: np.ndarray, reason: str) -> None:
        for unit in np.unique(ids[ids >= 0]).tolist():
            self.reasons.setdefault(unit, reason)

    def together(self, ids: np.ndarray, axes: Sequence[int], reason: str) -> np.ndarray:
        """Along `axes` everything goes or stays together. `reason` why, for units that do not vary along any other axis.

        Those cannot be removed at all: they are blocked, not joined. Otherwise the result does not vary along `axes`.
        """
        varying = tuple(axis for axis in axes if ids.shape[axis] > 1)
        if not varying:
            return ids
        if all(size == 1 for axis, size in enumerate(ids.shape) if axis not in varying):
            self.block(ids, reason)
            return ids
        one = ids.max(axis=varying, keepdims=True)
        self.link(ids, one)
        self.block(np.where((ids < 0).any(axis=varying, keepdims=True), one, -1), reason)
        return collapsed(one)

    def end(self) -> None:
        """End a pass: block what is used in ways that do not go together, of parameters that several nodes share."""
        views: dict[tuple[str, int], _Key] = {}
        for key in self._uses:
            for axis in key[1]:
                if (key[0], axis) in self._kept or (key[0], None) in self._kept:
                    self.block(self._numbers[key], f"{key[0]} is also used where its entries stay")
                other = views.setdefault((key[0], axis), key)
                if other != key:
                    for view in (key, other):
                        self.block(self._numbers[view], f"the layers that share {key[0]} use it in different ways")

    def join(self) -> bool:
        """One number for what was linked since the last time; whether there was anything."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._links:
            return False
        a, b = np.concatenate(self._links, axis=1)
        self._links = []
        edges = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(self.number, self.number))
        self.number, names = connected_components(edges, directed=False)
        self._numbers = {key: names[ids].astype(np.int64) for key, ids in self._numbers.items()}
        return True

    def dimensions(self) -> Iterator[Dimension]:
        """What the last pass used, in its order."""
        for key, uses in self._uses.items():
            roles = {role for _, role in uses}
            role: Role = "output" if "output" in roles else "follower" if "follower" in roles else "input"
            ids = self._numbers[key]
            yield Dimension(uses[0][0], key[1], ids.shape, collapsed(ids), role)


def collapsed(ids: np.ndarray) -> np.ndarray:
    """`ids` with size 1 along every axis along which it does not vary."""
    for axis, size in enumerate(ids.shape):
        if size > 1:
            first = ids.take([0], axis=axis)
            if (ids == first).all():
                ids = first
    return ids
