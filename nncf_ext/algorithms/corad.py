"""CORAD, compactness-oriented regularisation and distillation: loss = task + lambda * regulariser + gamma * distillation.

The definition is this project's own. Both terms have schedules of their own, are logged apart, and cost nothing where their
weight is 0. l1 and group_lasso may be minimised by proximal steps instead of gradients: after a step of the optimizer the weights
become prox(w), which makes exact zeros where a subgradient never does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numpy_xp
from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training
from nncf_ext.algorithms.noisy_weights import draw_noise, rows_for
from nncf_ext.algorithms.sparsity import SparsityStatistics, sparsity_measures, summary_of_masks
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.channels.costs import flops
from nncf_ext.config.corad import CoradConfig, Weighted
from nncf_ext.data import model_inputs
from nncf_ext.distillation.losses import ValidPositions, check_cache, outputs_loss
from nncf_ext.distillation.teacher_cache import TeacherCache, write_cache
from nncf_ext.edits import MASK, Edit, Plan, Range, Transform, Var
from nncf_ext.encodings import Grid
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import Unreadable, refused_as, value_in
from nncf_ext.files.schema import NotNegative
from nncf_ext.graph import Graph, Node, Parameter, Site
from nncf_ext.schedules import Clock, multistep, polynomial
from nncf_ext.sparsity import regularizers

FIRST_GATE = math.log(0.9 / 0.1)  # a tenth is dropped (Louizos et al. 2018)


class Shrinkage(Transform):
    """The weight as it is, which a proximal step may change after each of the optimizer's.

    channel_axis: of the output channels. grouped: these go as a whole.
    Variables: threshold of the proximal step, 0 where there is none; regularization and distillation, lambda and gamma. A
    compiled training step reads them anew each time.
    """

    kind: Literal["shrinkage"] = "shrinkage"
    stage: ClassVar[int] = MASK
    channel_axis: int = 0
    grouped: bool = False

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"threshold": Var(np.zeros((), np.float32)), **_factors()}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x

    def shrunk(self, xp: Any, x: Any, threshold: Any) -> Any:
        """After a proximal step."""
        if self.grouped:
            return regularizers.group_soft_threshold(xp, x, threshold, self.channel_axis)
        return regularizers.soft_threshold(xp, x, threshold)


class Gates(Transform):
    """The weight times a gate of each element, random in training (`regularizers.hard_concrete`).

    Variables: gate, shape of x, the logit of being open; rows, of `nncf_ext.noise`; regularization and distillation.
    """

    kind: Literal["gates"] = "gates"
    stage: ClassVar[int] = MASK

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        gate = Var(np.full(shape, FIRST_GATE, np.float32), trainable=True)
        return self, {"gate": gate, **rows_for(shape), **_factors()}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return regularizers.hard_concrete_gated(xp, x, variables["gate"], variables["rows"] if training else None)


def _factors() -> dict[str, Var]:
    return {name: Var(np.zeros((), np.float32)) for name in ("regularization", "distillation")}


@dataclass(frozen=True)
class CoradStatistics(SparsityStatistics):
    """regularizer: its value, without its weight. regularization_weight, distillation_weight: lambda and gamma now."""

    regularizer: float
    regularization_weight: float
    distillation_weight: float


class CoradState(Remembered):
    """The weights of the terms, and seconds by layer where they are regularised."""

    regularization: NotNegative
    distillation: NotNegative
    latency: dict[str, NotNegative] | None = None


class Corad(CoradConfig, Algorithm):
    """State: regularization, distillation (lambda and gamma), and where latencies are counted, latency by node name."""

    remembers: ClassVar[type[Remembered]] = CoradState
    transforms: ClassVar[tuple[type[Transform], ...]] = (Shrinkage, Gates)
    commands: ClassVar[tuple[str, ...]] = ("cache_teacher",)

    @property
    def needs_teacher(self) -> bool:
        return self.distillation is not None and self.distillation.weight > 0

    def check_cache(self, cache: TeacherCache) -> None:
        if self.distillation is not None:
            check_cache(self.distillation, cache)

    def cache_teacher(self, training: Training, state: State, path: Any, batches: Iterable[Any], top_k: int) -> State:
        """Run the teacher once over `batches` (any kind in docs/data.md) and write its answers for `TeacherCache`."""
        if self.distillation is None:
            raise ConfigError("corad: the key 'distillation' is missing, expected with a teacher")
        batches = list(batches) if isinstance(batches, tuple) else batches  # nobody needs targets here
        given = model_inputs(training.adapter.data, training.teacher, batches, "cache_teacher")
        write_cache(path, training.adapter, training.teacher, given, top_k, self.distillation.temperature)
        return state

    def plan(self, graph: Graph, target_device: str) -> Plan:
        if self.regularization is not None and self.regularization.type == "l0" and self.regularization.weight > 0:
            return plan_weights(graph, self, self.algorithm, Gates())
        plan = plan_weights(graph, self, self.algorithm, Shrinkage(), self._why_not)
        grouped = self.regularization is not None and self.regularization.type == "group_lasso"
        edits = []
        for edit in plan:
            axis = graph.parameter_at(edit.site).channel_axis or 0
            edits.append(replace(edit, transform=Shrinkage(channel_axis=axis, grouped=grouped)))
        return replace(plan, edits=tuple(edits))

    def _why_not(self, node: Node, weight: Parameter) -> str | None:
        if not (weight.made_by and self._is_proximal):
            return None
        return f"the proximal step writes into weights, and this one is computed anew in each forward ({weight.made_by})"

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        description = "not regularised" if self.regularization is None else f"regularised by {self.regularization.type}"
        return summary_of_masks(graph, edits, lambda _: description, None)

    def start(self) -> State:
        return {"regularization": 0.0, "distillation": 0.0}

    def initialize(self, training: Training, state: State) -> State:
        self._listen(training)
        kind = None if self.regularization is None else self.regularization.type
        if kind == "bit_width" and not any(_grids(training, edit) for edit in training.edits):
            raise ConfigError(
                f"{self.path('regularization.type')}: bit_width is about learned ranges, expected quantization beside it"
            )
        return {**state, "latency": self._latencies(training.graph)} if kind == "latency" else state

    def resume(self, training: Training, state: State) -> None:
        self._listen(training)

    def _listen(self, training: Training) -> None:
        if self._is_proximal and self.regularization is not None and self.regularization.weight > 0:
            after = {edit.key: partial(self._proximal_step, training, edit) for edit in training.edits}
            training.attached.optimizer_hook.listen(after=after)

    def _proximal_step(self, training: Training, edit: Edit, weight: Any) -> Any:
        assert isinstance(edit.transform, Shrinkage)
        threshold = training.attached.variables(edit)["threshold"]
        return edit.transform.shrunk(training.xp, weight, training.xp.cast_like(threshold, weight))

    def check_state(self, training: Training, state: State) -> None:
        super().check_state(training, state)
        if self.regularization is not None and self.regularization.type == "latency" and state.get("latency") is None:
            raise Unreadable("latency: found none, expected a number for each layer")

    def step(self, training: Training, clock: Clock, state: State) -> State:
        """Noise and the weights of the terms for this step."""
        draw_noise(training, clock.step)
        epoch = clock.progress(self.steps_per_epoch or clock.steps_per_epoch)
        now = {"regularization": level(self.regularization, epoch), "distillation": level(self.distillation, epoch)}
        if any(state[name] != value for name, value in now.items()):
            for edit in training.edits:
                for name, value in now.items():
                    training.attached.assign(edit, name, np.float32(value))
                if isinstance(edit.transform, Shrinkage):
                    threshold = self._threshold(training, edit.site, edit.transform, now["regularization"])
                    training.attached.assign(edit, "threshold", np.float32(threshold))
        return {**state, **now}

    def loss(self, training: Training, state: State) -> Mapping[str, Any] | None:
        """The terms `regularization` (without a gradient where proximal steps minimise it) and `distillation`."""
        if not training.edits:
            return None
        xp, terms = training.xp, {}
        factors = {name: xp.stop_gradient(value) for name, value in training.variables(training.edits[0]).items()}
        if self.regularization is not None and self.regularization.weight > 0:
            term = factors["regularization"] * self._regularizer(training, state)
            terms["regularization"] = xp.stop_gradient(term) if self._is_proximal else term
        if self.distillation is not None and self.distillation.weight > 0:
            difference = outputs_loss(
                training.xp, self.distillation, training.outputs, training.extra(ValidPositions), self.algorithm
            )
            if difference is not None:
                terms["distillation"] = factors["distillation"] * difference
        return terms

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        term = self.regularization or self.distillation
        now = state["regularization" if self.regularization is not None else "distillation"]
        if term is None or now >= term.weight * (term.multistep_factors[-1] if term.schedule == "multistep" else 1):
            return CompressionStage.FULLY_COMPRESSED
        return CompressionStage.UNCOMPRESSED if now == 0 else CompressionStage.PARTIALLY_COMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        """Factors are set and noise is drawn by `step`."""
        terms = [term for term in (self.regularization, self.distillation) if term is not None and term.weight > 0]
        changing = any(t.warmup_epochs or t.multistep_steps or t.schedule in ("linear", "cubic") for t in terms)
        return (("epoch_step", "step") if changing else ("step",)) if terms else ()

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if not training.edits or self.stage(clock, state) is CompressionStage.FULLY_COMPRESSED:
            return None
        found = {"regularization": self.regularization, "distillation": self.distillation}
        description = [f"{state[name]:g} of {term.weight:g} for {name}" for name, term in found.items() if term is not None]
        return f"found the factors {', '.join(description)}, expected the schedule at its end"

    def report(self, training: Training, clock: Clock, state: State) -> CoradStatistics:
        raw = [training.adapter.to_numpy(training.attached.parameter(edit.site)) for edit in training.edits]
        present = [{name: training.variable(e, name) for name in training.attached.variables(e)} for e in training.edits]
        left = [e.transform.apply(numpy_xp, w, v, False) for e, w, v in zip(training.edits, raw, present, strict=True)]
        has_value = self.regularization is not None and training.edits
        value = float(training.adapter.to_numpy(self._regularizer(training, state))) if has_value else 0.0
        return CoradStatistics(
            **sparsity_measures(training, left),
            regularizer=value,
            regularization_weight=state["regularization"],
            distillation_weight=state["distillation"],
        )

    @property
    def _is_proximal(self) -> bool:
        return self.regularization is not None and self.regularization.proximal_step is not None

    def _threshold(self, training: Training, site: Site, transform: Shrinkage, weight: float) -> float:
        """Of a proximal step on `weight` times the regulariser: a factor of each |w|, or of each channel's norm."""
        if self.regularization is None or self.regularization.proximal_step is None:
            return 0.0
        shapes = [training.graph.shape_of(each.site) for each in training.edits]
        own = training.graph.shape_of(site)
        group = math.prod(own) / own[transform.channel_axis] if transform.grouped else 1
        return self.regularization.proximal_step * weight * math.sqrt(group) / sum(map(math.prod, shapes))

    def _regularizer(self, training: Training, state: State) -> Any:
        settings, xp = self.regularization, training.xp
        assert settings is not None
        if settings.type == "l0":
            return regularizers.l0(xp, [training.variables(edit)["gate"] for edit in training.edits])
        weights = [training.attached.parameter(edit.site) for edit in training.edits]
        axes = [edit.transform.channel_axis for edit in training.edits if isinstance(edit.transform, Shrinkage)]
        if settings.type == "l1":
            return regularizers.l1(xp, weights)
        if settings.type == "group_lasso":
            return regularizers.group_lasso(xp, weights, axes)
        if settings.type == "entropy":
            return regularizers.entropy(xp, weights, settings.delta)
        if settings.type == "latency":
            times = [sum(state["latency"].get(site.label, 0.0) for site in edit.sites) for edit in training.edits]
            return regularizers.latency(xp, weights, axes, times, settings.delta)
        quantized = [(grid, edit) for edit in training.edits for grid in _grids(training, edit)]
        sizes = [math.prod(training.graph.shape_of(edit.site)) for _, edit in quantized]
        return regularizers.bit_width(xp, [grid.step * grid.intervals for grid, _ in quantized], sizes, settings.delta)

    def _latencies(self, graph: Graph) -> dict[str, float]:
        """By weight (`Site.label`). ConfigError where the table is none, or has no number for a layer that is regularised."""
        assert self.regularization is not None
        if self.regularization.latency_table is None:
            return {site.label: float(count) for site, count in flops(graph).items()}
        json_path, path = self.path("regularization.latency_table"), Path(self.regularization.latency_table)
        try:
            with refused_as(ConfigError, f"{json_path}: {path} cannot be read as JSON"):
                table = value_in(path)
        except OSError as error:
            raise ConfigError(f"{json_path}: {path} cannot be read as JSON: {error}") from None
        wrong = not isinstance(table, dict) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in table.values())
        if wrong or any(v < 0 for v in table.values()):
            raise ConfigError(f"{json_path}: {path}: expected an object with a number, 0 or more, by node name")
        labels = {site.label for site in flops(graph)}
        unknown = next((name for name in table if name not in graph.by_name and name not in labels), None)
        if unknown is not None:
            raise ConfigError(f"{json_path}: {path}: {unknown!r} is no node of the model")
        return {name: float(value) for name, value in table.items()}


def level(term: Weighted | None, epoch: float) -> float:
    """The factor of a term after `epoch` epochs."""
    if term is None or epoch < term.warmup_epochs:
        return 0.0
    if term.schedule == "multistep":
        return term.weight * multistep(term.multistep_steps, term.multistep_factors, epoch)
    if term.schedule == "constant":
        return term.weight
    power = 1 if term.schedule == "linear" else 3
    return polynomial(0.0, term.weight, epoch - term.warmup_epochs, term.ramp_epochs, power, concave=True)


def _grids(training: Training, edit: Edit) -> list[Grid]:
    """Of the quantizers at the edit's site."""
    found = (q.transform.encoded(training.xp, training.variables(q)) for q in training.attached.plan.at(edit.site))
    return [grid for grid in found if isinstance(grid, Grid)]
