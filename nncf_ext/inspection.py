"""What is in a checkpoint, per layer, without the framework that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from rich.table import Table

from nncf_ext.checkpoint import CheckpointError, TensorFile, plan_from_json, plan_in
from nncf_ext.edits import Edit
from nncf_ext.errors import shown
from nncf_ext.files.json_text import refused_as
from nncf_ext.files.schema import expect
from nncf_ext.schedules import Clock

SUFFIX = ".safetensors"


class _Algorithm(BaseModel):
    state: dict[str, Any]


class _Progress(BaseModel):
    scheduler_state: dict[str, Any]
    algorithms: dict[str, _Algorithm]


def find_checkpoint(path: Path) -> Path:
    """`path` itself, or the newest checkpoint in the folder. FileNotFoundError where there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such checkpoint or folder")
    shown = [file for file in path.rglob(f"*{SUFFIX}") if not any(part[0] == "." for part in file.relative_to(path).parts)]
    found = sorted((file for file in shown if file.is_file()), key=lambda file: file.stat().st_mtime)  # not what is being written
    if not found:
        raise FileNotFoundError(f"{path}: no checkpoint (*{SUFFIX}) in this folder")
    return found[-1]


def describe(path: Path) -> list[Table]:
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
    summary = Table("", "", title=str(path), title_justify="left", show_header=False)
    summary.add_row("epoch", str(epoch))
    summary.add_row("tensors", f"{len(tensors)}, {sum(array.nbytes for array in tensors.values()):,} bytes")
    for name, algorithm in progress.algorithms.items():
        summary.add_row(name, ", ".join(f"{key} {shown(value)}" for key, value in algorithm.state.items()) or "no schedule")
    layers = Table(title="compressed tensors", title_justify="left")
    layers.add_column("layer", overflow="fold", ratio=2)  # names are long words, which differ at their ends
    for name in ("tensor", "transform", "settings", "values"):
        layers.add_column(name)
    for edit in plan:
        settings = edit.transform.model_dump(exclude={"kind"}, exclude_none=True, exclude_defaults=True)
        layers.add_row(edit.site.node, edit.site.slot, edit.transform.kind, _settings(settings), _values(edit, state, tensors))
    return [summary, layers]


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(name if value is True else f"{name} {value}" for name, value in settings.items() if value is not False)


def _values(edit: Edit, state: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    variables = {name: tensors[tensor] for name, tensor in state.get("variables", {}).get(edit.key, {}).items()}
    parameters = state.get("parameters", {}).get(edit.key, ())
    try:
        return edit.transform.describe(variables, tensors[parameters[0]] if parameters else None)
    except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError) as error:
        raise CheckpointError(f"the values of {edit.key} are none of a {edit.transform.kind}: {error}") from None
