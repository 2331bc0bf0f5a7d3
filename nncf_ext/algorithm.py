"""What every algorithm may do; a config class overrides what it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nncf_ext.adapter import Adapter, Attached
from nncf_ext.config.initialization import RangeInit
from nncf_ext.distillation.outputs import Outputs
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.edits import Edit, Plan, Range, Removal, Transform
from nncf_ext.files.json_text import Unreadable
from nncf_ext.files.schema import Saved, expect
from nncf_ext.graph import Graph, Site
from nncf_ext.schedules import Clock

State = Mapping[str, Any]  # JSON-able; what an algorithm remembers besides its variables


class Remembered(Saved):
    """What a saved `State` has to look like; an algorithm that remembers something has a class of its own."""


class CompressionStage(IntEnum):
    """How far compression has come."""

    UNCOMPRESSED = 0
    PARTIALLY_COMPRESSED = 1
    FULLY_COMPRESSED = 2

    def combine(self, other: CompressionStage) -> CompressionStage:
        return self if self == other else CompressionStage.PARTIALLY_COMPRESSED


@dataclass(frozen=True)
class Training:
    """What an algorithm sees of the running training."""

    adapter: Adapter
    graph: Graph
    attached: Attached
    edits: tuple[Edit, ...]
    outputs: Outputs | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)  # the config's extra structs
    after_optimizer_step: Callable[[], None] = lambda: None  # have the controller call that of all algorithms
    teacher: Any = None
    plain: Callable[[], tuple[Any, Any]] = lambda: (None, None)  # a copy of the model as `strip` makes it, and its trace

    @property
    def xp(self) -> Any:
        """The framework's array namespace."""
        return self.adapter.xp

    def variables(self, edit: Edit) -> Mapping[str, Any]:
        """Arrays of the framework, attached to its autodiff."""
        return edit.differentiable(self.xp, self.attached.variables(edit))

    def extra(self, kind: type) -> Any:
        """What the user registered in the config for `kind`, or None."""
        return self.extras.get(kind.__name__)

    def variable(self, edit: Edit, name: str) -> np.ndarray:
        return self.adapter.to_numpy(self.attached.variables(edit)[name])

    def weight_after_earlier_edits(self, site: Site) -> np.ndarray:
        """The parameter at `site` as the algorithm's own edit gets it."""
        value: Any = self.xp.stop_gradient(self.attached.parameter(site))
        for edit in self.attached.plan.at(site):
            if edit in self.edits:
                break
            if self.attached.enabled(edit):
                value = edit.apply(self.xp, value, self.attached.variables(edit), False)
        return self.adapter.to_numpy(value)


@dataclass(frozen=True)
class PlanningContext:
    """What an algorithm sees of a model for which there is a plan, and which is still plain.

    ranges: by edit key. trial(plan): the model compressed with that plan, ranges and BatchNorm statistics initialised; afterwards
    it is plain again, and in every value as it was. extras: the config's extra structs. teacher_graph(): of the teacher, where an
    algorithm needs one.
    """

    adapter: Adapter
    model: Any
    traced: Any
    target_device: str
    ranges: Mapping[str, Range]
    trial: Callable[[Plan], AbstractContextManager[Any]]
    extras: Mapping[str, Any]
    log_dir: Path
    teacher_graph: Callable[[], Graph]

    @property
    def graph(self) -> Graph:
        return self.traced.graph

    def extra(self, kind: type) -> Any:
        """What the user registered in the config for `kind`, or None."""
        return self.extras.get(kind.__name__)


@dataclass(frozen=True)
class PlanSummary:
    """What an algorithm is going to do to a model, as far as that is known without data.

    at: what happens to the tensors, in words. report: a dataclass like that of `Algorithm.report`, or None. by_data: what is
    decided by data, in words.
    """

    at: Mapping[Site, str]
    report: Any = None
    by_data: tuple[str, ...] = ()


def expect_codes_as_said(training: Training, state: State) -> None:
    """Unreadable where weights are coded, and the state says that they are not, or the other way round."""
    for edit in training.edits:
        codes = training.variable(edit, "codes")
        if codes.size and bool(codes.min() >= 0) != state["coded"]:
            raise Unreadable(f"coded: found {state['coded']}, and the codes of {edit.site} say otherwise")


class Algorithm:
    """An entry of `compression`. Instances are immutable; `state` is what changes, and the controller keeps it.

    commands: methods `(training, state, *arguments) -> state` that users call on the controller, as NNCF 2.x names them;
    readings: methods `(training, state) -> value` that are attributes there.
    """

    algorithm: str
    commands: ClassVar[tuple[str, ...]] = ()
    readings: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str] = ""  # a config may have one algorithm of a family
    remembers: ClassVar[type[Remembered]] = Remembered
    transforms: ClassVar[tuple[type[Transform], ...]] = ()  # those that its plans may have, for reading plans back

    @property
    def needs_teacher(self) -> bool:
        return False

    @property
    def needs_copy(self) -> bool:
        """Whether the training, `strip` in place or an export will need a plain copy of the model."""
        return False

    @property
    def weight_of_task(self) -> float:
        """Factor of the task's own loss, beside which the algorithm's stands."""
        return 1.0

    def plan(self, graph: Graph, target_device: str) -> Plan:
        """Where to place which transforms."""
        return Plan()

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        """What `plan`, which gave these edits, means for the model."""
        return PlanSummary({site: edit.transform.kind.replace("_", " ") for edit in edits for site in edit.sites})

    def range_inits(self, graph: Graph, edits: Sequence[Edit]) -> Mapping[str, RangeInit]:
        """How the ranges of its edits that need one start, by edit key."""
        return {}

    def refine(self, plan: Plan, context: PlanningContext) -> Plan:
        """What data decide about the algorithm's edits in the composed plan. Not called where a saved plan is taken up again."""
        return plan

    def teacher_sites(self, edits: Sequence[Edit], graph: Graph, teacher_graph: Callable[[], Graph]) -> Mapping[Site, Site]:
        """Where in the teacher is what tensors of the model are to be compared with, by the model's site. ConfigError where it is
        not."""
        return {}

    def check_cache(self, cache: TeacherCache) -> None:
        """ConfigError where the algorithm cannot learn from a teacher's saved answers."""

    def start(self) -> State:
        return {}

    def initialize(self, training: Training, state: State) -> State:
        """Called once, when the transforms stand in a freshly compressed model (not where a checkpoint is resumed)."""
        return state

    def check_state(self, training: Training, state: State) -> None:
        """Unreadable where a saved state is none of this algorithm in this model."""
        expect(self.remembers, state)

    def check_loaded(self, training: Training, state: State) -> None:
        """Unreadable where the variables that were loaded with `state` are not those that it speaks of."""

    def resume(self, training: Training, state: State) -> None:
        """Called when `state` was taken over from a checkpoint: puts into the model what it says beside the variables."""

    def take_up(self, training: Training, clock: Clock, state: State, saved: Mapping[str, Any]) -> State:
        """The state at `clock` of a training that NNCF 2.x began. state: of a model that was compressed just now; saved: what it
        saved of the scheduler; the model's tensors are loaded later."""
        return state

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        """Called when an epoch begins (`clock` already points to it)."""
        return state

    def step(self, training: Training, clock: Clock, state: State) -> State:
        """Called when an optimizer step begins."""
        return state

    def after_optimizer_step(self, training: Training, state: State) -> State:
        """Called when an optimizer step may have ended: at the latest before the next begins, or the state is saved."""
        return state

    def loss(self, training: Training, state: State) -> Any:
        """Scalar to add to the task's loss, a mapping of such terms by name, or None."""
        return None

    def compression_rate(self, training: Training, state: State) -> float | None:
        """Share of the model that is saved, in the algorithm's own measure (zeros, FLOPs); None where it has no such measure."""
        return None

    def maximal_compression_rate(self, training: Training) -> float:
        return 1.0

    def set_compression_rate(self, training: Training, state: State, rate: float) -> State:
        """Compress to `rate` now; from then on the schedule does not change it. Only where `compression_rate` is not None."""
        raise NotImplementedError

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        """Hold what is compressed as it is (`frozen`), or let the schedule go on."""
        return state

    def schedule(self, clock: Clock, state: State) -> Mapping[str, Any]:
        """What the scheduler tells of it, by NNCF 2.x's names."""
        return {}

    def loss_settings(self, state: State) -> Mapping[str, Any]:
        """What the loss tells of it, by NNCF 2.x's names."""
        return {}

    def removals(self, training: Training, state: State) -> tuple[Removal, ...]:
        """The channels that leave the model when it is stripped."""
        return ()

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        return CompressionStage.FULLY_COMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        """The scheduler's calls (`epoch_step`, `step`) that have to come for what the config asks, as things stand."""
        return ()

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        """What was found and what the config asks for in the end, in words, where it is not there yet; not where the user set
        something else."""
        return None

    def report(self, training: Training, clock: Clock, state: State) -> Any:
        """A dataclass for `statistics()`, or None."""
        return None
