"""What is in a checkpoint, per layer, without the framework that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from nncf_ext.checkpoint import CheckpointError, TensorFile, plan_in
from nncf_ext.edits import Edit, Transform
from nncf_ext.errors import as_json
from nncf_ext.files.json_text import refused_as
from nncf_ext.files.schema import expect
from nncf_ext.saved_plan import plan_from_json
from nncf_ext.schedules import Clock
from nncf_ext.text_table import TextTable


class _Algorithm(BaseModel):
    state: dict[str, Any]


class _Progress(BaseModel):
    scheduler_state: dict[str, Any]
    algorithms: dict[str, _Algorithm]


def describe(path: Path) -> list[TextTable]:
    """Two tables: the training state, and one row per compressed tensor."""
    file = TensorFile(path)
    state = file.compression_state
    if state is None:
        raise CheckpointError(f"{path} is a safetensors file without nncf_ext's compression state")
    try:
        plan = plan_from_json(plan_in(state))
        if "ctrl_state" not in state:
            raise CheckpointError("the compression state lacks 'ctrl_state'")
        with refused_as(CheckpointError, "ctrl_state"):
            progress = expect(_Progress, state["ctrl_state"])
        epoch = Clock.from_json(progress.scheduler_state).epoch
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    tensors = {name: file.read(name) for name in file.specs}
    summary = [("epoch", str(epoch)), ("tensors", f"{len(tensors)}, {sum(array.nbytes for array in tensors.values()):,} bytes")]
    for name, algorithm in progress.algorithms.items():
        remembered = [f"{key} {as_json(value)}" for key, value in algorithm.state.items() if value not in ({}, [])]
        summary.append((name, ", ".join(remembered) or "no schedule"))
    layers = [
        (edit.site.node, edit.site.slot, edit.transform.kind, _settings(edit.transform), _values(edit, state, tensors))
        for edit in plan
    ]
    columns = ("layer", "tensor", "transform", "settings", "values")
    return [TextTable(str(path), summary), TextTable("compressed tensors", layers, columns)]


def _settings(transform: Transform) -> str:
    settings = transform.model_dump(exclude={"kind"}, exclude_none=True, exclude_defaults=True)
    return ", ".join(name if value is True else f"{name} {value}" for name, value in settings.items() if value is not False)


def _values(edit: Edit, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    variables = {name: tensors[tensor] for name, tensor in state.get("variables", {}).get(edit.key, {}).items()}
    parameters = state.get("parameters", {}).get(edit.key, ())
    try:
        return edit.transform.describe(variables, tensors[parameters[0]] if parameters else None)
    except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError) as error:
        raise CheckpointError(f"the values of {edit.key} are none of a {edit.transform.kind}: {error}") from None
