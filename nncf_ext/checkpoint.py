"""Checkpoints: tensors as safetensors with the compression state as JSON in the header. Never pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from nncf_ext.algorithms import ALGORITHMS
from nncf_ext.edits import Edit, Plan
from nncf_ext.graph import Graph, Site

FORMAT = 1


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, is damaged, or belongs to another model or plan."""


def plan_in(state: Any) -> Mapping[str, Any]:
    """The plan, as JSON data, in a compression state. CheckpointError where that is none."""
    try:
        return state["builder_state"]["plan"]
    except (KeyError, TypeError):
        raise CheckpointError("this is no compression state: expected what get_compression_state() gave") from None


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan that `Plan.to_json` wrote. CheckpointError where it names an algorithm or a transform that is not known."""
    edits = []
    for item in data["edits"]:
        algorithm, settings = item["algorithm"], item["transform"]
        known = {t.model_fields["kind"].default: t for t in getattr(ALGORITHMS.get(algorithm), "transforms", ())}
        if settings.get("kind") not in known:
            raise CheckpointError(
                f"the plan has a transform {settings.get('kind')!r} of {algorithm!r}, which this version does not know"
            )
        transform = known[settings["kind"]].model_validate(settings)
        sites = tuple(Site.parse(site) for site in item["sites"])
        edits.append(Edit(sites, transform, algorithm, item.get("lr_multiplier", 1.0), tuple(item.get("operators", ()))))
    return Plan(tuple(edits), tuple((name, reason) for name, reason in data.get("skipped", ())))


def check_plan_fits(plan: Plan, graph: Graph) -> None:
    """CheckpointError where the graph lacks a site of the plan: the state belongs to another model."""
    for edit in plan:
        for site in edit.sites:
            try:
                graph.shape_of(site)
            except KeyError:
                raise CheckpointError(
                    f"the compression state belongs to another model: it has a {edit.transform.kind} at {site}, "
                    "which this model does not have"
                ) from None


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Write a checkpoint in one step: a reader sees the old file or the new one, never a part."""
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data = save(contiguous, metadata={"nncf_ext": json.dumps({"format": FORMAT, "state": state})})
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(data)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, compression state). FileNotFoundError, or CheckpointError where the file is not a whole checkpoint."""
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(9)
    is_safetensors = start[8:] == b"{"  # the first 8 bytes are the length of the header, and may look like anything
    if not is_safetensors and (start[:1] == b"\x80" or start[:2] == b"PK"):
        raise CheckpointError(f"{path} looks like a pickle (torch.save): it is not loaded, because loading one can run code")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({error})") from None
    try:
        header = json.loads(metadata["nncf_ext"])
    except (KeyError, ValueError):
        raise CheckpointError(f"{path} is a safetensors file without nncf_ext's compression state") from None
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {header.get('format')}, expected {FORMAT}")
    return tensors, header["state"]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name for `path`, in a folder of its own beside it.

    At the end all files there move beside `path`, and last of all it replaces `path`; on an error they go.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: cannot write {path.name} there")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            os.replace(file, path.parent / file.name)
