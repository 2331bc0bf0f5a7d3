"""What a saved state, or the tensors of a checkpoint, must be before anything in a model changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from nncf_ext.adapter import Attached
from nncf_ext.checkpoint import CheckpointError, first_difference, plan_in
from nncf_ext.edits import Plan
from nncf_ext.files.finite import not_finite
from nncf_ext.files.json_text import refused_as
from nncf_ext.schedules import Clock


def clock_in(state: Any) -> Clock:
    """The clock of a scheduler's state; CheckpointError where it is none."""
    try:
        return Clock.from_json(state)
    except ValueError as error:
        raise CheckpointError(f"scheduler_state: {error}") from None


def check_plan(state: Mapping[str, Any], plan: Plan, what: str) -> None:
    """CheckpointError where the state, which is called `what`, was saved with another plan."""
    ours, theirs = plan.to_json()["edits"], plan_in(state)["edits"]
    if theirs != ours:
        raise CheckpointError(f"{what} was saved with another plan: {first_difference(ours, theirs)}")


def check_tensors(tensors: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """CheckpointError where the tensors of the file at `path` cannot take the places of those that are present."""
    problems = [f"{name} is missing" for name in present if name not in tensors]
    problems += [f"{name} is not in the model" for name in tensors if name not in present]
    problems += [
        f"{name} is {tensors[name].dtype}{list(tensors[name].shape)}, the model's {array.dtype}{list(array.shape)}"
        for name, array in present.items()
        if name in tensors and not _fits(tensors[name], array)
    ]
    if problems:
        raise CheckpointError(f"{path} is of another model: {problems[0]} ({len(problems)} differences)")


def check_variables(tensors: Mapping[str, np.ndarray], attached: Attached) -> None:
    """CheckpointError where a transform's variable is not finite, so that all that it computes would not be, or is none."""
    for edit in attached.plan:
        names = attached.tensor_names(edit)
        with refused_as(CheckpointError, f"the values of {edit.key}"):
            edit.transform.check({variable: tensors[name] for variable, name in names.items()})
        for name in names.values():
            problem = not_finite(tensors[name]) if name in tensors else None
            if problem:
                raise CheckpointError(f"{name} of {edit.key}: {problem}, expected finite ones")


def _fits(array: np.ndarray, present: np.ndarray) -> bool:
    """Whether it can take the place of `present`: of its shape, and numbers of its kind."""
    kinds = {"V": "f"}  # ml_dtypes' floats
    same = kinds.get(array.dtype.kind, array.dtype.kind) == kinds.get(present.dtype.kind, present.dtype.kind)
    return array.shape == present.shape and same
