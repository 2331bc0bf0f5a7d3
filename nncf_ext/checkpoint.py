"""Checkpoints: tensors as safetensors with the compression state as JSON in the header. Never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from nncf_ext.algorithms import ALGORITHMS
from nncf_ext.edits import Edit, Plan
from nncf_ext.files.writing import replacing
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


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """Of two lists of edits, as JSON data, that are not the same."""
    for mine, other in zip(ours, theirs, strict=False):
        here, there = ({"at": edit["sites"], **edit["transform"]} for edit in (mine, other))
        if here["at"] != there["at"] or here["kind"] != there["kind"]:
            return f"found a {there['kind']} at {there['at'][0]}, expected a {here['kind']} at {here['at'][0]}"
        for name in here:
            if here[name] != there.get(name):
                return f"{here['kind']} at {here['at'][0]}: found {name} {there.get(name)}, expected {here[name]}"
    return f"it has {len(theirs)} transforms, the model has {len(ours)}"


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Write a checkpoint in one step: a reader sees the old file or the new one, never a part."""
    save_tensors(path, tensors, {"nncf_ext": json.dumps({"format": FORMAT, "state": state})})


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file in one step. Takes the memory of the tensors once more."""
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata=None if metadata is None else dict(metadata))


class TensorFile:
    """A safetensors file whose tensors are read one by one. FileNotFoundError, or CheckpointError where it is none."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        with self.path.open("rb") as file:
            start = file.read(9)
        is_safetensors = start[8:] == b"{"  # the first 8 bytes are the length of the header, and may look like anything
        if not is_safetensors and (start[:1] == b"\x80" or start[:2] == b"PK"):
            raise CheckpointError(
                f"{self.path} looks like a pickle (torch.save): it is not loaded, because loading one can run code"
            )
        with self._told():
            self._file: Any = safetensors.safe_open(self.path, framework="numpy")
            self._metadata = self._file.metadata() or {}

    @cached_property
    def specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """(shape, dtype as safetensors names it) by name, without reading a tensor."""
        slices = ((name, self._file.get_slice(name)) for name in self._file.keys())  # noqa: SIM118  (not a dict)
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices}

    def read(self, name: str) -> np.ndarray:
        with self._told():
            return self._file.get_tensor(name)

    @property
    def state(self) -> dict[str, Any] | None:
        """The compression state; None in a safetensors file of others."""
        try:
            header = json.loads(self._metadata["nncf_ext"])
        except (KeyError, ValueError):
            return None
        if header.get("format") != FORMAT:
            raise CheckpointError(f"{self.path} has checkpoint format {header.get('format')}, expected {FORMAT}")
        return header["state"]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path} is truncated or not a checkpoint ({error})") from None


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, compression state). FileNotFoundError, or CheckpointError where the file is not a whole checkpoint."""
    file = TensorFile(path)
    state = file.state
    if state is None:
        raise CheckpointError(f"{path} is a safetensors file without nncf_ext's compression state")
    return {name: file.read(name) for name in file.specs}, state
