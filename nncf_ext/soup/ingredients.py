"""The models of a soup: files or arrays whose tensors are read one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext.checkpoint import CheckpointError, TensorFile, find_checkpoint, first_difference, plan_in

_DTYPES = {
    "BOOL": "bool",
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}


class SoupError(ValueError):
    """Models that cannot be averaged, in one sentence: which one, which tensor, what was found and what was expected."""


@contextmanager
def _raised_as_soup_error(label: object) -> Iterator[None]:
    """What is wrong with a file is wrong with the soup."""
    try:
        yield
    except CheckpointError as error:
        raise SoupError(str(error) if str(label) in str(error) else f"{label}: {error}") from None


@dataclass(frozen=True)
class Ingredient:
    """label: what it is called in messages. specs: (shape, dtype) by name. state: the compression state, where there is one."""

    label: str
    specs: Mapping[str, tuple[tuple[int, ...], str]]
    state: Mapping[str, Any] | None
    tensor: Callable[[str], np.ndarray]

    def read(self, name: str) -> np.ndarray:
        """One tensor. SoupError where it has a NaN."""
        with _raised_as_soup_error(self.label):
            array = self.tensor(name)
        if array.dtype.kind == "f":
            lost = int(np.count_nonzero(np.isnan(array)))
            if lost:
                raise SoupError(f"{self.label}: {lost} of {array.size} values of {name} are NaN, expected none")
        return array


def ingredient(source: Any, number: int) -> Ingredient:
    """`source`: a safetensors file, a folder with one (the newest), arrays by name, or a `Soup`. number: its place, from 1."""
    if isinstance(source, Ingredient):
        return source
    if isinstance(source, str | os.PathLike):
        path = find_checkpoint(Path(source))
        with _raised_as_soup_error(path):
            file = TensorFile(path)
            state = file.compression_state
        known = {name: (shape, _DTYPES.get(dtype, dtype)) for name, (shape, dtype) in file.specs.items()}
        return Ingredient(str(path), known, state, file.read)
    tensors: Mapping[str, Any] = getattr(source, "tensors", source)
    if not isinstance(tensors, Mapping):
        raise SoupError(f"ingredient {number}: found a {type(source).__name__}, expected a file, a folder, or arrays by name")
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    specs = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    return Ingredient(f"ingredient {number}", specs, getattr(source, "state", None), arrays.__getitem__)


def check_compatible(sources: Sequence[Any]) -> list[Ingredient]:
    """The ingredients of a soup. SoupError where they are fewer than two, or differ in tensors, shapes, types or plans.

    Only headers are read.
    """
    if isinstance(sources, str | os.PathLike | Mapping) or len(sources) < 2:
        count = 1 if isinstance(sources, str | os.PathLike | Mapping) else len(sources)
        raise SoupError(f"ingredients: found {count}, expected at least two models to average")
    found = [ingredient(source, number) for number, source in enumerate(sources, 1)]
    first = found[0]
    for name, (_, dtype) in first.specs.items():
        if dtype not in _DTYPES.values():
            raise SoupError(f"{first.label}: {name} has type {dtype}, expected one that numpy has: save the model in float32")
    for other in found[1:]:
        _expect_alike(first, other)
    return found


def _expect_alike(first: Ingredient, other: Ingredient) -> None:
    names = sorted(first.specs.keys() ^ other.specs.keys())
    if names:
        having, lacking = (first, other) if names[0] in first.specs else (other, first)
        raise SoupError(
            f"{lacking.label} has no tensor {names[0]}, which {having.label} has ({len(names)} such differences): "
            "expected models of one architecture, with the same names"
        )
    for name, (shape, dtype) in first.specs.items():
        if other.specs[name] != (shape, dtype):
            what, ours, theirs = ("shape", shape, other.specs[name][0])
            if ours == theirs:
                what, ours, theirs = ("type", dtype, other.specs[name][1])
            raise SoupError(f"{other.label}: {name} has {what} {theirs}, expected {ours} as in {first.label}")
    if (first.state is None) != (other.state is None):
        plain, compressed = (first, other) if first.state is None else (other, first)
        raise SoupError(f"{plain.label} has no compression state, {compressed.label} has one: expected one of all, or of none")
    if first.state is not None and other.state is not None:
        ours, theirs = plan_in(first.state)["edits"], plan_in(other.state)["edits"]
        if ours != theirs:
            raise SoupError(f"{other.label} has another plan than {first.label}: {first_difference(ours, theirs)}")
