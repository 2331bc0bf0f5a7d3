"""The weighted mean of models, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np

from nncf_ext import numpy_xp
from nncf_ext.checkpoint import CheckpointError, plan_in
from nncf_ext.edits import MASK, Edit
from nncf_ext.saved_plan import plan_from_json
from nncf_ext.soup.ingredients import Ingredient, SoupError

Masks = Literal["refuse", "union", "intersection"]
_BLOCK = 1 << 20  # elements that are converted to float64 at a time


class Mean:
    """A weighted sum of arrays in float64, rounded once at the end; arrays that are not floating-point: the first one."""

    def __init__(self) -> None:
        self._total: np.ndarray | None = None
        self._dtype: Any = None

    def add(self, array: np.ndarray, share: float) -> None:
        if self._total is None:
            self._dtype = array.dtype
            is_float = array.dtype.kind == "f"
            self._total = np.array(array, np.float64 if is_float else None)
            if is_float and share != 1:
                self._total *= share
        elif self._dtype.kind == "f":
            total, values = self._total.reshape(-1), array.reshape(-1)
            for start in range(0, total.size, _BLOCK):
                total[start : start + _BLOCK] += share * values[start : start + _BLOCK].astype(np.float64)

    def value(self) -> np.ndarray:
        assert self._total is not None
        return self._total.astype(self._dtype)


def blend(
    ingredients: Sequence[Ingredient], shares: Callable[[str], Sequence[float]], masks: Masks = "refuse"
) -> dict[str, np.ndarray]:
    """sum_i shares(name)[i] * ingredient_i[name] for every tensor; each one is read once, and not where its share is 0.

    Integers come from the first ingredient with a share. masks: what happens where the ingredients' masks differ. `refuse`:
    SoupError. `union`: a weight is kept that any of them keeps, and is the mean of what they compute with, 0 where masked.
    `intersection`: kept that all keep. The masks of the result are checked to be what was asked for. SoupError where numbers in
    code books differ: the books have no mean then.
    """
    _check_codes(ingredients)
    result: dict[str, np.ndarray] = {}
    for group in _groups(ingredients[0].state, masks):
        result |= _blended_group(group, ingredients, shares, masks)
    for name in ingredients[0].specs:
        if name not in result:
            mean = Mean()
            for source, share in _with_share(ingredients, shares(name)):
                mean.add(source.read(name), share)
            result[name] = mean.value()
    return {name: result[name] for name in ingredients[0].specs}


def _check_codes(ingredients: Sequence[Ingredient]) -> None:
    first, *others = ingredients
    for key, variables in (first.state or {}).get("variables", {}).items():
        if "codes" not in variables:
            continue
        codes = first.read(variables["codes"])
        for other in others:
            differing = int(np.count_nonzero(other.read(variables["codes"]) != codes))
            if differing:
                raise SoupError(
                    f"{other.label}: {differing} of {codes.size} codes of {key} differ from those of {first.label}, expected "
                    "models that were trained from one that was coded already"
                )


@dataclass
class _Group:
    """Masks that act on the same parameters. edits: each with the names of its variables' tensors."""

    edits: list[tuple[Edit, Mapping[str, str]]]
    parameters: set[str] = field(default_factory=set)


def _groups(state: Mapping[str, Any] | None, masks: Masks) -> list[_Group]:
    if state is None:
        return []
    groups: list[_Group] = []
    try:
        plan = plan_from_json(plan_in(state))
    except CheckpointError as error:
        raise SoupError(str(error)) from None
    for edit in plan:
        variables = state.get("variables", {}).get(edit.key)
        if edit.transform.stage != MASK or not variables:
            continue
        if masks == "union" and "parameters" not in state:
            raise SoupError("masks='union' needs checkpoints that say which parameters are masked: save them anew")
        group = _Group([(edit, variables)], set(state.get("parameters", {}).get(edit.key, ())))
        for other in [other for other in groups if other.parameters & group.parameters]:
            groups.remove(other)
            group = _Group(other.edits + group.edits, other.parameters | group.parameters)
        groups.append(group)
    return groups


def _blended_group(
    group: _Group, ingredients: Sequence[Ingredient], shares: Callable[[str], Sequence[float]], masks: Masks
) -> dict[str, np.ndarray]:
    names = [tensor for _, variables in group.edits for tensor in variables.values()]
    means = {name: Mean() for name in (*names, *(group.parameters if masks == "union" else ()))}
    merged: dict[str, np.ndarray] = {}  # the masks' variables at their largest, or smallest
    wanted: list[np.ndarray] = []
    differ, first = False, ingredients[0]
    for place, source in enumerate(ingredients):
        if not shares(names[0])[place]:
            continue
        values = {name: source.read(name) for name in names}
        kept = [_kept(edit, {v: values[tensor] for v, tensor in variables.items()}) for edit, variables in group.edits]
        if not wanted:
            first, wanted, merged = source, kept, dict(values)
        for index, ((edit, _), ours, theirs) in enumerate(zip(group.edits, wanted, kept, strict=True)):
            differing = int(np.count_nonzero(ours != theirs))
            if differing and masks == "refuse":
                raise SoupError(
                    f"{source.label}: its mask differs from that of {first.label} in {differing} of {ours.size} places "
                    f"at {edit.site}, expected the same masks, or masks='union' or 'intersection'"
                )
            differ = differ or differing > 0
            wanted[index] = ours | theirs if masks == "union" else ours & theirs
        for name, value in values.items():
            means[name].add(value, shares(name)[place])
            if masks != "refuse" and value.dtype.kind != "i":
                merged[name] = (np.maximum if masks == "union" else np.minimum)(merged[name], value)
        if masks == "union":
            together = reduce(np.multiply, kept)
            for name in group.parameters:
                parameter = source.read(name)
                means[name].add(parameter * together.astype(parameter.dtype), shares(name)[place])
    result = {name: mean.value() for name, mean in means.items()}
    if differ:
        result |= merged
    for (edit, variables), expected in zip(group.edits, wanted, strict=True):
        found = _kept(edit, {v: result[tensor] for v, tensor in variables.items()})
        if not np.array_equal(found, expected):
            raise SoupError(
                f"{edit.key}: these masks have no {masks if masks != 'refuse' else 'mean'} that a {edit.transform.kind} "
                "can tell: expected all of them frozen, or none"
            )
    return result


def _kept(edit: Edit, variables: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where a mask keeps its parameter, in the shape of its largest variable."""
    shape = max((value.shape for value in variables.values()), key=lambda shape: (int(np.prod(shape)), len(shape)))
    try:
        return edit.transform.apply(numpy_xp, np.ones(shape, np.float32), variables, False) != 0
    except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError) as error:
        raise SoupError(f"{edit.key}: the values are none of a {edit.transform.kind}: {error}") from None


def _with_share(ingredients: Sequence[Ingredient], shares: Sequence[float]) -> list[tuple[Ingredient, float]]:
    return [(source, share) for source, share in zip(ingredients, shares, strict=True) if share]
