"""What is in a checkpoint, per layer, without the framework that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nncf_ext.checkpoint import CheckpointError, load_checkpoint, plan_from_json
from nncf_ext.edits import Edit
from nncf_ext.schedules import Clock

SUFFIX = ".safetensors"


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
    tensors, state = load_checkpoint(path)
    try:
        plan = plan_from_json(state["builder_state"]["plan"])
        progress = state["ctrl_state"]
    except KeyError as error:
        raise CheckpointError(f"{path}: the compression state lacks {error}") from None
    summary = Table("", "", title=str(path), title_justify="left", show_header=False)
    summary.add_row("epoch", str(Clock.from_json(progress["scheduler_state"]).epoch))
    summary.add_row("tensors", f"{len(tensors)}, {sum(array.nbytes for array in tensors.values()):,} bytes")
    for name, algorithm in progress["algorithms"].items():
        summary.add_row(name, ", ".join(f"{key} {value}" for key, value in algorithm["state"].items()) or "no schedule")
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
    names = state["variables"].get(edit.key, {})
    parts = []
    for variable, tensor in sorted(names.items()):
        values = tensors[tensor]
        if variable in ("mask", "scores"):
            parts.append(f"{float((values <= 0).mean()):.1%} zeros of {values.size:,}")
        elif values.dtype.kind in "iub":
            continue  # bookkeeping
        elif values.size == 1:
            parts.append(f"{variable} {float(values.reshape(-1)[0]):.4g}")
        else:
            parts.append(f"{variable} {float(values.min()):.4g} .. {float(values.max()):.4g} ({values.size} channels)")
    return ", ".join(parts)
