"""How a config names quantizers: by an operator, or by the place they stand at.

A name with a place in it is that of the quantizer there: `node|WEIGHT`, `node|OUTPUT`, `node|INPUT0` as NNCF 2.x wrote them, or
the site itself (`node|weight`, `node|output`, `node|input:0`). Any other name is that of a node.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeVar

from nncf_ext.graph import INPUT, Graph, Site
from nncf_ext.scopes import MARKER, matched_by

_PLACE = re.compile(r"\|(WEIGHT|OUTPUT|INPUT\d+|weight|output|input:\d+)$")


class PlacedQuantizer(Protocol):
    """A quantizer, before or after it is placed. operators: those that read the tensor which it quantizes."""

    @property
    def sites(self) -> tuple[Site, ...]: ...

    @property
    def operators(self) -> tuple[str, ...]: ...


Key = TypeVar("Key")


def is_of_place(pattern: str) -> bool:
    """Whether a scope speaks of quantizers by their place: in a regular expression, an escaped bar tells."""
    return r"\|" in pattern if MARKER in pattern else _PLACE.search(pattern) is not None


def places(sites: Iterable[Site]) -> set[str]:
    """The names of a quantizer at `sites`."""
    names = set()
    for site in sites:
        kind = "OUTPUT" if site.slot == "output" else "WEIGHT" if site.is_parameter else f"INPUT{site.port}"
        names |= {str(site), f"{site.node}|{kind}"}
    return names


def by_operator(graph: Graph, quantizer: PlacedQuantizer) -> set[str]:
    """The names of a quantizer by what it is for: the nodes of a weight, the operators that read an activation, or an input of
    the model; and its places."""
    if quantizer.sites[0].is_parameter:
        return {site.node for site in quantizer.sites} | places(quantizer.sites)
    inputs = {site.node for site in quantizer.sites if graph[site.node].op == INPUT}
    return set(quantizer.operators) | inputs | places(quantizer.sites)


def by_place(quantizer: PlacedQuantizer) -> set[str]:
    """The names of a quantizer by where it stands: nodes, and its places."""
    return {site.node for site in quantizer.sites} | places(quantizer.sites)


def select_quantizers(
    pattern: str, names: Mapping[Key, Collection[str]], path: str, validate: bool = True, what: str = "quantizer"
) -> list[Key]:
    """The keys of those whose names a scope is about. A node's name is not searched for in the names of places, and vice versa.

    ConfigError at the JSON path `path` where it is about none and `validate` is set.
    """
    of_place = is_of_place(pattern)
    candidates = {name: None for group in names.values() for name in sorted(group) if ("|" in name) == of_place}
    hits = matched_by(pattern, candidates, path, validate, what)
    return [key for key, group in names.items() if hits & set(group)]


def precedence(pattern: str) -> tuple[bool, bool]:
    """Order in which scopes are heard, the last one having the last word: places after nodes, exact names after expressions."""
    return is_of_place(pattern), MARKER not in pattern
