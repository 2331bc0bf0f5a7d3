"""What a model and its teacher gave for the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outputs:
    """Outputs of the last training forward, flattened, and the teacher's for the same inputs.

    inputs(): what the model was given, by name. features: by the key of an edit that looks on, what passed it, and the tensor at
    the teacher's site that belongs to it.
    """

    student: Sequence[Any]
    teacher: Sequence[Any]
    inputs: Callable[[], Mapping[str, Any]] = dict
    features: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
