"""Checkpoints: tensors as safetensors with the compression state as JSON in the header. Never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any

import numpy as np
import safetensors
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from safetensors.numpy import save_file

from nncf_ext.edits import Plan
from nncf_ext.errors import as_json
from nncf_ext.files.finite import not_finite
from nncf_ext.files.json_text import Unreadable, refused_as, value_of
from nncf_ext.files.schema import expect
from nncf_ext.files.writing import replacing
from nncf_ext.graph import Graph

FORMAT = 1
SUFFIX = ".safetensors"
_AXES = ("channel_axis", "axis", "axes", "input_axis", "output_axis")  # settings of transforms that are one
MOST_STATE = 1 << 30  # bytes of memory that a state may take
_OBJECT = TypeAdapter(dict[str, Any])


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, is damaged, or belongs to another model or plan."""


class _SavedEdit(BaseModel):
    model_config = ConfigDict(strict=True)
    sites: Annotated[list[str], Field(min_length=1)]
    transform: dict[str, Any]
    algorithm: str
    lr_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    operators: list[str] = []


class SavedPlan(BaseModel):
    """The form of what `Plan.to_json` writes."""

    model_config = ConfigDict(strict=True)
    edits: list[_SavedEdit]
    skipped: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []


class _Builder(BaseModel):
    plan: SavedPlan


class _State(BaseModel):
    """A compression state. `ctrl_state` is the controller's to read: it knows the algorithms."""

    model_config = ConfigDict(strict=True)
    builder_state: _Builder
    variables: dict[str, dict[str, str]] = {}
    parameters: dict[str, list[str]] = {}


def plan_in(state: Any) -> Mapping[str, Any]:
    """The plan, as JSON data, in a compression state. CheckpointError where that is none."""
    try:
        expect(_State, state)
    except Unreadable as problem:
        raise CheckpointError(f"this is no compression state, expected what get_compression_state() gave: {problem}") from None
    return state["builder_state"]["plan"]


def find_checkpoint(path: Path) -> Path:
    """`path` itself, or the newest checkpoint in the folder. FileNotFoundError where there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such checkpoint or folder")
    visible = [file for file in path.rglob(f"*{SUFFIX}") if not any(part[0] == "." for part in file.relative_to(path).parts)]
    found = sorted(
        (file for file in visible if file.is_file()), key=lambda file: file.stat().st_mtime
    )  # not what is being written
    if not found:
        raise FileNotFoundError(f"{path}: no checkpoint (*{SUFFIX}) in this folder")
    return found[-1]


def check_plan_fits(plan: Plan, graph: Graph) -> None:
    """CheckpointError where the graph lacks a site of the plan: the state belongs to another model."""
    for edit in plan:
        for site in edit.sites:
            try:
                shape = graph.shape_of(site)
            except (KeyError, IndexError):
                raise CheckpointError(
                    f"the compression state belongs to another model: it has a {edit.transform.kind} at {site}, "
                    "which this model does not have"
                ) from None
            for name in _AXES:
                own = getattr(edit.transform, name, None)
                axes = own if isinstance(own, tuple) else () if own is None else (own,)
                if len(edit.sites) == 1 and any(not -len(shape) <= axis < len(shape) for axis in axes):
                    raise CheckpointError(
                        f"the compression state belongs to another model: the {edit.transform.kind} at {site} has {name} {own}, "
                        f"the tensor there has {len(shape)} axes"
                    )


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """Of two lists of edits, as JSON data, that are not the same."""
    for mine, other in zip(ours, theirs, strict=False):
        here, there = ({"at": edit["sites"], **edit["transform"]} for edit in (mine, other))
        if here["at"] != there["at"] or here["kind"] != there.get("kind"):
            return f"found a {there.get('kind')} at {there['at'][0]}, expected a {here['kind']} at {here['at'][0]}"
        for name in here:
            if here[name] != there.get(name):
                found, expected = str(there.get(name))[:99], str(here[name])[:99]
                return f"{here['kind']} at {here['at'][0]}: found {name} {found}, expected {expected}"
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
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{self.path}: found a device or a pipe, expected a file")
            start = file.read(9)
        is_safetensors = start[8:] == b"{"  # the first 8 bytes are the length of the header, and may look like anything
        if not is_safetensors and (start[:1] == b"\x80" or start[:2] == b"PK"):
            raise CheckpointError(
                f"{self.path} looks like a pickle (torch.save): it is not loaded, because loading one can run code"
            )
        with self._raised_as_checkpoint_error():
            self._file: Any = safetensors.safe_open(self.path, framework="numpy")
            self._metadata = self._file.metadata() or {}

    @cached_property
    def specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """(shape, dtype as safetensors names it) by name, without reading a tensor."""
        slices = ((name, self._file.get_slice(name)) for name in self._file.keys())  # noqa: SIM118  (not a dict)
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices}

    def read(self, name: str) -> np.ndarray:
        with self._raised_as_checkpoint_error():
            return self._file.get_tensor(name)

    @cached_property
    def state(self) -> dict[str, Any] | None:
        """What was saved with the tensors, a compression state mostly; None in a safetensors file of others."""
        if "nncf_ext" not in self._metadata:
            return None
        with refused_as(CheckpointError, self.path):
            header = value_of(self._metadata["nncf_ext"].encode(), MOST_STATE)
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                found = header.get("format") if isinstance(header, dict) else header
                raise Unreadable(f"found checkpoint format {as_json(found)}, expected {FORMAT}")
            return expect(_OBJECT, header.get("state"))

    @property
    def compression_state(self) -> dict[str, Any] | None:
        """`state`, as far as it is about the plan. CheckpointError where it is none, or names tensors that are not there."""
        if self.state is None:
            return None
        try:
            plan_in(self.state)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        named = [name for tensors in self.state.get("variables", {}).values() for name in tensors.values()]
        named += [name for names in self.state.get("parameters", {}).values() for name in names]
        missing = next((name for name in named if name not in self.specs), None)
        if missing is not None:
            raise CheckpointError(f"{self.path} has no tensor {as_json(missing)}, which its compression state names")
        return self.state

    @contextmanager
    def _raised_as_checkpoint_error(self) -> Iterator[None]:
        try:
            yield
        except (safetensors.SafetensorError, OSError, ValueError, TypeError, MemoryError) as error:  # of types numpy lacks, too
            raise CheckpointError(f"{self.path} is truncated or not a checkpoint ({str(error)[:200]})") from None


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, compression state). FileNotFoundError, or CheckpointError where the file is not a whole checkpoint."""
    file = TensorFile(path)
    state = file.state
    if state is None:
        raise CheckpointError(f"{path} is a safetensors file without nncf_ext's compression state")
    tensors = {name: file.read(name) for name in file.specs}
    for name, array in tensors.items():
        problem = not_finite(array, infinite=False)
        if problem:
            raise CheckpointError(f"{path}: {name}: {problem}, expected a model whose training did not diverge")
    return tensors, state
