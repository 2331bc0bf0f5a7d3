"""What a model and its teacher gave for the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nncf_ext.graph import Site


@dataclass(frozen=True)
class Outputs:
    """Outputs of the last training forward, flattened, and the teacher's for the same inputs.

    inputs(): what the model was given, by name. features: by site, the tensor that passed it, and the one at the teacher's site
    that belongs to it.
    """

    student: Sequence[Any]
    teacher: Sequence[Any]
    inputs: Callable[[], Mapping[str, Any]] = dict
    features: Mapping[Site, tuple[Any, Any]] = field(default_factory=dict)
