"""What the sparsity algorithms have in common: which weights they mask, the schedule of the level, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import TypeAdapter

from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training
from nncf_ext.config.sparsity import SparsityParams
from nncf_ext.edits import MASK, Edit, Range, Transform, Var
from nncf_ext.files.schema import Count, Share, expect
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock, adaptive, exponential, multistep, polynomial


class BinaryMask(Transform):
    """x * mask. The gradient reaches kept weights only; masked ones keep their value and may come back while masks change."""

    kind: Literal["mask"] = "mask"
    stage: ClassVar[int] = MASK

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"mask": Var(np.ones(shape, bool))}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x * xp.cast_like(variables["mask"], x)


@dataclass(frozen=True)
class LayerSparsity:
    """level: share of zeros in the layer's weight; share_of_weights: of the weights in all the sparse layers, this one's."""

    name: str
    shape: tuple[int, ...]
    level: float
    share_of_weights: float

    # NNCF 2.x's names

    @property
    def module_node_name(self) -> str:
        return self.name

    @property
    def weight_shape(self) -> list[int]:
        return list(self.shape)

    @property
    def sparsity_level(self) -> float:
        return self.level

    @property
    def weight_percentage(self) -> float:
        return 100 * self.share_of_weights


@dataclass(frozen=True)
class MaskOfModule:
    """What NNCF 2.x calls the operand of a sparse module: its mask as it was asked for (1: kept)."""

    binary_mask: Any
    frozen: bool

    def apply_binary_mask(self, weight: Any) -> Any:
        return weight * self.binary_mask


@dataclass(frozen=True)
class SparsifiedModule(LayerSparsity):
    """module: the framework's layer that has the weight."""

    module: Any = field(repr=False, compare=False)
    operand: MaskOfModule = field(repr=False, compare=False)


@dataclass(frozen=True)
class SparsityStatistics:
    """Levels are shares of zeros: `sparsity_level` among all parameters of the layers known to the graph,
    `sparsity_level_for_layers` among the weights that are masked. The properties are NNCF 2.x's ways to the same numbers."""

    sparsity_level: float
    sparsity_level_for_layers: float
    layers: tuple[LayerSparsity, ...]

    @property
    def model_statistics(self) -> SparsityStatistics:
        return self

    @property
    def sparsified_layers_summary(self) -> tuple[LayerSparsity, ...]:
        return self.layers

    @property
    def tensorboard_scalars(self) -> dict[str, float]:
        """NNCF 2.x's names for what is logged."""
        return {
            "sparsity_level_for_model": self.sparsity_level,
            "sparsity_level_for_sparsified_layers": self.sparsity_level_for_layers,
        }


def _names(edit: Edit) -> tuple[str, ...]:
    """What the weight of an edit may be called in `set_sparsity_level`; its own name before that of a node with several."""
    return (*(site.label for site in edit.sites), *(site.node for site in edit.sites))


@dataclass(frozen=True)
class PlannedSparsity:
    """target: share of zeros in the end among the weights that are masked, where the config says it."""

    weights_masked: int
    weights_total: int
    target: float | None


def summary_of_masks(
    graph: Graph, edits: Sequence[Edit], description: Callable[[Edit], str], target: float | None
) -> PlanSummary:
    sites = {site: description(edit) for edit in edits for site in edit.sites}
    return PlanSummary(sites, PlannedSparsity(graph.size_of(sites), sum(graph.sizes.values()), target))


def sparsity_measures(training: Training, masks: Sequence[np.ndarray]) -> dict[str, Any]:
    """The fields of `SparsityStatistics`, for masks (nonzero: kept) in the order of the edits."""
    total = sum(mask.size for mask in masks)
    zeros = [mask.size - int(np.count_nonzero(mask)) for mask in masks]
    layers = tuple(
        LayerSparsity(edit.site.label, mask.shape, gone / max(mask.size, 1), mask.size / total)
        for edit, mask, gone in zip(training.edits, masks, zeros, strict=True)
    )
    return {
        "sparsity_level": sum(zeros) / max(sum(training.graph.sizes.values()), 1),
        "sparsity_level_for_layers": sum(zeros) / max(total, 1),
        "layers": layers,
    }


_SHARE: TypeAdapter[float] = TypeAdapter(Share)


class ScheduledState(Remembered):
    """own_levels: where some layers have a level of their own, by what they are called."""

    level: Share
    frozen: bool
    scheduled: bool
    bad_epochs: Count
    own_levels: dict[str, Share] = {}


class ScheduledSparsity(Algorithm):
    """A sparsity level that a schedule raises, until its masks are frozen.

    State: level (share of zeros that is wanted), frozen, scheduled (False once a level was set by hand), bad_epochs (of the
    adaptive schedule), and where some layers have a level of their own, own_levels by what they are called.
    """

    remembers: ClassVar[type[Remembered]] = ScheduledState
    family: ClassVar[str] = "sparsity"
    commands: ClassVar[tuple[str, ...]] = ("set_sparsity_level",)
    readings: ClassVar[tuple[str, ...]] = ("current_sparsity_level", "sparsified_module_info")
    tolerance: ClassVar[float] = 0.005  # of the level, in what counts as reached
    sparsity_init: float
    params: SparsityParams

    def masks(self, training: Training) -> list[np.ndarray]:
        """The masks (nonzero: kept) as they are now, in the order of the edits."""
        raise NotImplementedError

    def follow(self, training: Training, state: State) -> None:
        """Have the model follow the levels of `state`."""
        raise NotImplementedError

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        over = "in this layer" if self.params.sparsity_level_setting_mode == "local" else "over all such layers"
        description = f"{self.algorithm.removesuffix('_sparsity')} mask, to {self.target:.0%} zeros {over}"
        return summary_of_masks(graph, edits, lambda _: description, self.target)

    def start(self) -> State:
        return {"level": self.sparsity_init, "frozen": False, "scheduled": True, "bad_epochs": 0}

    def initialize(self, training: Training, state: State) -> State:
        self.follow(training, state)
        return state

    def take_up(self, training: Training, clock: Clock, state: State, saved: Mapping[str, Any]) -> State:
        level = self.sparsity_init if clock.epoch < 0 else self.level(clock.progress(self._steps(clock)))
        if self.params.schedule == "adaptive":
            level = expect(_SHARE, saved.get("current_sparsity_level", self.sparsity_init))
        frozen = clock.epoch >= self.params.sparsity_freeze_epoch
        return {**state, "level": level, "frozen": frozen, "bad_epochs": saved.get("num_bad_epochs", 0)}

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        if state["frozen"]:
            return state
        freezes = clock.epoch >= self.params.sparsity_freeze_epoch
        if freezes or not (self._steps(clock) and clock.epoch > 0):
            state = self._update(training, clock, state)
        return self.freeze(training, state, True) if freezes else state

    def step(self, training: Training, clock: Clock, state: State) -> State:
        return self._update(training, clock, state) if self._steps(clock) and not state["frozen"] else state

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        return {**state, "frozen": frozen}

    def compression_rate(self, training: Training, state: State) -> float:
        """Share of zeros among the weights that are masked."""
        return self.current_sparsity_level(training, state)

    def set_compression_rate(self, training: Training, state: State, rate: float) -> State:
        return self.set_sparsity_level(training, state, rate)

    def current_sparsity_level(self, training: Training, state: State) -> float:
        return float(sparsity_measures(training, self.masks(training))["sparsity_level_for_layers"])

    def sparsified_module_info(self, training: Training, state: State) -> tuple[SparsifiedModule, ...]:
        """What is masked, in the order of the model; each may be the `layer_info` of `set_sparsity_level`."""
        masks = self.masks(training)
        return tuple(
            SparsifiedModule(
                **vars(layer),
                module=training.attached.owner(edit.site),
                operand=MaskOfModule(training.xp.asarray(mask.astype(np.float32)), state["frozen"]),
            )
            for edit, mask, layer in zip(training.edits, masks, sparsity_measures(training, masks)["layers"], strict=True)
        )

    def schedule(self, clock: Clock, state: State) -> Mapping[str, Any]:
        return {
            "current_sparsity_level": state["level"],
            "initial_level": self.sparsity_init,
            "target_level": self.target,
            "target_epoch": self.params.sparsity_target_epoch,
            "freeze_epoch": self.params.sparsity_freeze_epoch,
        }

    def set_sparsity_level(
        self,
        training: Training,
        state: State,
        sparsity_level: float,
        target_sparsified_module_info: str | LayerSparsity | None = None,
        run_batchnorm_adaptation: bool = False,
        *,
        layer_info: str | LayerSparsity | None = None,
    ) -> State:
        """From now on this level, whatever the schedule says: for one layer (its node's name, or an entry of the statistics),
        else for all. Frozen masks stay frozen, at the new level.

        layer_info: the same as target_sparsified_module_info. run_batchnorm_adaptation: the controller's part.
        ValueError for a level that is not in [0, 1), or a layer that is not masked.
        """
        layer_info = target_sparsified_module_info if layer_info is None else layer_info
        if not 0 <= sparsity_level < 1:
            raise ValueError(f"{self.algorithm}: found level {sparsity_level}, expected at least 0 and less than 1")
        if layer_info is None:
            others = {name: value for name, value in state.items() if name != "own_levels"}
            state = {**others, "level": sparsity_level, "scheduled": False}
        else:
            layer = layer_info if isinstance(layer_info, str) else layer_info.name
            if not any(layer in _names(edit) for edit in training.edits):
                raise ValueError(f"{self.algorithm}: found layer {layer!r}, expected the node of a weight that it masks")
            state = {**state, "own_levels": {**state.get("own_levels", {}), layer: sparsity_level}}
        frozen = state["frozen"]
        state = self.freeze(training, state, False)
        self.follow(training, state)
        return self.freeze(training, state, frozen)

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        if state["level"] >= self.target:
            return CompressionStage.FULLY_COMPRESSED
        return CompressionStage.UNCOMPRESSED if state["level"] == 0 else CompressionStage.PARTIALLY_COMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        if state["frozen"] or not state["scheduled"] or state["level"] >= self.target:
            return ()
        return ("epoch_step", "step") if self.params.update_per_optimizer_step else ("epoch_step",)

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if not state["scheduled"] or "own_levels" in state or not training.edits:
            return None
        wanted = min(state["level"], self.target) if state["frozen"] else self.target  # frozen: by the schedule, or by the user
        found = self.compression_rate(training, state)
        rounding = 0.5 * len(training.edits) / sum(math.prod(training.graph.shape_of(edit.site)) for edit in training.edits)
        return (
            None
            if found >= wanted - self.tolerance - rounding
            else f"found {found:.1%} zeros, expected {wanted:.1%}{self._when()}"
        )

    def _when(self) -> str:
        params = self.params
        if params.schedule == "adaptive":
            return ""
        last = max(params.multistep_steps, default=0) if params.schedule == "multistep" else params.sparsity_target_epoch
        return f" from epoch {last} on"

    @property
    def target(self) -> float:
        params = self.params
        return params.multistep_sparsity_levels[-1] if params.schedule == "multistep" else params.sparsity_target

    def level(self, epoch: float) -> float:
        """The schedule: share of zeros wanted after `epoch` epochs. Not for `adaptive`, which depends on what was reached."""
        params = self.params
        if params.schedule == "multistep":
            return multistep(params.multistep_steps, params.multistep_sparsity_levels, epoch)
        if params.schedule == "exponential":
            return exponential(self.sparsity_init, params.sparsity_target, epoch, params.sparsity_target_epoch)
        return polynomial(
            self.sparsity_init, params.sparsity_target, epoch, params.sparsity_target_epoch, params.power, params.concave
        )

    def levels(self, training: Training, state: State) -> list[float]:
        """The level that is wanted of each edit."""
        return [state["level"] if own is None else own for own in self.own_levels(training, state)]

    def own_levels(self, training: Training, state: State) -> list[float | None]:
        """The level that was set for each edit by itself, if any."""
        own = state.get("own_levels", {})
        return [next((own[name] for name in _names(edit) if name in own), None) for edit in training.edits]

    def _steps(self, clock: Clock) -> int | None:
        """Optimizer steps in an epoch where the level is to rise with each of them; None where it is not, or they are unknown."""
        if not self.params.update_per_optimizer_step or self.params.schedule != "polynomial":
            return None
        return self.params.steps_per_epoch or clock.steps_per_epoch

    def _update(self, training: Training, clock: Clock, state: State) -> State:
        """The schedule's level. One that was set by hand stays; then only which weights are masked is decided anew."""
        if state["scheduled"] and self.params.schedule == "adaptive":
            reached = self.current_sparsity_level(training, state)
            level, bad = adaptive(reached, state["level"], self.target, state["bad_epochs"], self.params.patience)
            state = {**state, "level": level, "bad_epochs": bad}
        elif state["scheduled"]:
            state = {**state, "level": self.level(clock.progress(self._steps(clock)))}
        self.follow(training, state)
        return state
