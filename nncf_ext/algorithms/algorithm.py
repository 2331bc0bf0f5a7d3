"""What every algorithm may do; a config class overrides what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np

from nncf_ext.adapter import Adapter, Attached
from nncf_ext.edits import Edit, Plan, Transform
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock

State = Mapping[str, Any]  # JSON-able; what an algorithm remembers besides its variables


class CompressionStage(IntEnum):
    """How far compression has come."""

    UNCOMPRESSED = 0
    PARTIALLY_COMPRESSED = 1
    FULLY_COMPRESSED = 2

    def combine(self, other: CompressionStage) -> CompressionStage:
        return self if self == other else CompressionStage.PARTIALLY_COMPRESSED


@dataclass(frozen=True)
class Outputs:
    """Outputs of the last training forward, flattened, and the teacher's for the same inputs."""

    student: Sequence[Any]
    teacher: Sequence[Any]


@dataclass(frozen=True)
class Training:
    """What an algorithm sees of the running training."""

    adapter: Adapter
    graph: Graph
    attached: Attached
    edits: tuple[Edit, ...]
    outputs: Outputs | None = None

    @property
    def xp(self) -> Any:
        """The framework's array namespace."""
        return self.adapter.xp

    def variable(self, edit: Edit, name: str) -> np.ndarray:
        return self.adapter.to_numpy(self.attached.variables(edit)[name])


class Algorithm:
    """An entry of `compression`. Instances are immutable; `state` is what changes, and the controller keeps it."""

    algorithm: str
    needs_teacher: ClassVar[bool] = False
    transforms: ClassVar[tuple[type[Transform], ...]] = ()  # those that its plans may have, for reading plans back

    def plan(self, graph: Graph, target_device: str) -> Plan:
        """Where to place which transforms."""
        return Plan()

    def start(self) -> State:
        return {}

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        """Called when an epoch begins (`clock` already points to it)."""
        return state

    def step(self, training: Training, clock: Clock, state: State) -> State:
        """Called when an optimizer step begins."""
        return state

    def loss(self, training: Training, state: State) -> Any:
        """Scalar to add to the task's loss, or None."""
        return None

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        return CompressionStage.FULLY_COMPRESSED

    def report(self, training: Training, clock: Clock, state: State) -> Any:
        """A dataclass for `statistics()`, or None."""
        return None
