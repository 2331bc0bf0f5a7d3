"""Weights for a model from a state that may be of another one: what has a place in it, what differs, what is missing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Given:
    """A tensor of a state.

    key: its name there; name: that of the model's tensor that it is for. any_shape: only the number of elements has to be the
    model's. implied: names of the model's tensors that need none where this one is given.
    """

    key: str
    name: str
    value: Any
    any_shape: bool = False
    implied: Collection[str] = ()


def load_matching(
    given: Iterable[Given | str],
    own: Mapping[str, Any],
    copy: Callable[[Mapping[str, Any]], None],
    is_resume: bool,
    needless: Collection[str],
) -> int:
    """Have `copy` overwrite, by name, those of a model's tensors that a state has values for; returns how many these are.

    given: the state's tensors; a sentence stands for one that cannot be used. own: the model's by name (only shapes are read).
    needless: names of those that need no value. is_resume: RuntimeError, and nothing is copied, where a tensor has no place or
    one of the model's gets no value; without it a warning says so.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    without = set(needless)
    for each in given:
        if isinstance(each, str):
            problems.append(each)
            continue
        if each.name not in own:
            problems.append(f"{each.key} has no place in the model")
            continue
        shape, expected = tuple(each.value.shape), tuple(own[each.name].shape)
        without.update(each.implied)
        if shape == expected or (each.any_shape and math.prod(shape) == math.prod(expected)):
            found[each.name] = each.value.reshape(expected)
        else:
            problems.append(f"{each.key} has shape {shape}, the model's {expected}")
    problems += [f"{name} is missing" for name in own if name not in found and name not in without]
    if is_resume and problems:
        raise RuntimeError(f"load_state: {problems[0]} ({len(problems)} such differences)")
    copy(found)
    if problems:
        warnings.warn(f"load_state: {len(found)} tensors loaded; {problems[0]} ({len(problems)} such differences)", stacklevel=3)
    return len(found)
