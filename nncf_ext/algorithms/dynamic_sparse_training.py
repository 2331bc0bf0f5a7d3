"""Dynamic sparse training: sparse from the first step on, with connections that move while the weights train.

static; SET (Mocanu et al. 2018); RigL (Evci et al. 2020); Top-KAST (Jayakumar et al. 2020); AC/DC (Peste et al. 2021); GraNet
(Liu et al. 2021); SR-STE (Zhou et al. 2021).

A weight without a connection is zero in the parameter itself, and so is all that the optimizer keeps for it: a connection that
grows starts from nothing. RigL needs the gradients of weights without a connection in the steps in which connections move; in
those alone they are computed. Such a step trains the present connections like any other, and then they move. (The authors' code
leaves out the optimizer's step in it.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training
from nncf_ext.algorithms.sparsity import BinaryMask, SparsityStatistics, sparsity_measures, summary_of_masks
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.channels.costs import flops
from nncf_ext.config.dynamic_sparse_training import DynamicSparseTrainingConfig
from nncf_ext.edits import MASK, Edit, Plan, Range, Transform, Var
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import Unreadable
from nncf_ext.files.schema import Count
from nncf_ext.graph import Graph, Node, Parameter
from nncf_ext.schedules import Clock, polynomial
from nncf_ext.sparsity.connections import Structure, densities, drop_and_grow, first_units, random_scores
from nncf_ext.sparsity.selection import n_of_m
from nncf_ext.sparsity.weight_matrix import WeightMatrix, weight_matrix

_GROWS_BY_GRADIENT = ("rigl", "granet")
_MOVES_IN_STEPS = ("set", *_GROWS_BY_GRADIENT)


class ConnectionMask(BinaryMask):
    """x * mask, where masked elements of x are zero themselves."""

    kind: Literal["connection_mask"] = "connection_mask"


class ForwardBackwardMask(Transform):
    """x * mask; the gradient passes where `backward` is 1, which it is also where `mask` is (Top-KAST)."""

    kind: Literal["forward_backward_mask"] = "forward_backward_mask"
    stage: ClassVar[int] = MASK

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {name: Var(np.ones(shape, bool)) for name in ("mask", "backward")}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        value = x * xp.cast_like(variables["mask"], x)
        return numerics.straight_through(xp, value, x * xp.cast_like(variables["backward"], x)) if training else value


class NOfMMask(Transform):
    """x where it is among the n largest of m neighbouring inputs, else 0; the gradient passes everywhere (SR-STE).

    working, output_axis, input_axis: of `Structure`.
    """

    kind: Literal["n_of_m_mask"] = "n_of_m_mask"
    stage: ClassVar[int] = MASK
    n: int
    m: int
    working: tuple[int, ...]
    output_axis: int
    input_axis: int

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {}

    def mask(self, xp: Any, x: Any) -> Any:
        shape = tuple(int(n) for n in x.shape)
        structure = Structure("n:m", shape, self.working, self.output_axis, self.input_axis, group=self.m)
        return structure.spread(xp, n_of_m(xp, structure.units(xp, xp.abs(xp.stop_gradient(x))), self.n))

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        value = x * self.mask(xp, x)
        return numerics.straight_through(xp, value, x) if training else value


@dataclass(frozen=True)
class DynamicSparsityStatistics(SparsityStatistics):
    """updates: how often the connections have moved. inference_flops, training_flops: FLOPs of a forward, and of a training step
    on average with the connections as they are, as shares of the dense model's. As Evci et al. 2020 count (App. H): a backward is
    two forwards, one for the gradient of the weights, which is dense in the steps that need it."""

    updates: int
    inference_flops: float
    training_flops: float


class DynamicSparseState(Remembered):
    """moving: the step whose end connections wait for."""

    moving: Count | None
    updates: Count
    frozen: bool
    sparse: bool


class DynamicSparseTraining(DynamicSparseTrainingConfig, Algorithm):
    """State: moving (the optimizer step whose end the connections wait for, or None), updates, frozen, sparse."""

    remembers: ClassVar[type[Remembered]] = DynamicSparseState
    family: ClassVar[str] = "sparsity"
    transforms: ClassVar[tuple[type[Transform], ...]] = (ConnectionMask, ForwardBackwardMask, NOfMMask)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        plan = plan_weights(graph, self, self.algorithm, self._mask, self._why_not)
        self._densities(graph, plan.edits)
        return plan

    def _why_not(self, node: Node, weight: Parameter) -> str | None:
        if node.attrs.get("depthwise"):
            return "depthwise convolution: stays dense"
        if weight.made_by and self.params.method not in ("top_kast", "sr_ste"):
            return f"{self.params.method} writes into weights, and this one is computed anew in each forward ({weight.made_by})"
        structure = self._structure(node, weight)
        return structure if isinstance(structure, str) else None

    def _mask(self, node: Node, weight: Parameter) -> Transform:
        if self.params.method == "top_kast":
            return ForwardBackwardMask()
        if self.params.method != "sr_ste":
            return ConnectionMask()
        structure = self._structure(node, weight)
        assert isinstance(structure, Structure) and self.params.ratio is not None
        n, m = self.params.ratio
        return NOfMMask(n=n, m=m, working=structure.working, output_axis=structure.output_axis, input_axis=structure.input_axis)

    def _structure(self, node: Node, weight: Parameter) -> Structure | str:
        """How a weight of `node` is made of units, or why it is not."""
        kind = "n:m" if self.params.ratio is not None else self.params.structure
        rank = len(weight.shape)
        if weight.input_axis is not None and weight.channel_axis is not None and "equation" not in node.attrs:
            working, output_axis, input_axis = weight.shape, weight.channel_axis % rank, weight.input_axis % rank
        else:
            matrix = weight_matrix(node, weight)
            if isinstance(matrix, WeightMatrix):
                working, output_axis, input_axis = matrix.shape, 1 - matrix.outputs_first, int(matrix.outputs_first)
            elif kind == "unstructured":
                working, output_axis, input_axis = (weight.shape[0], math.prod(weight.shape[1:])), 0, 1
            else:
                return f"structure {self.params.structure}: {matrix}"
        structure = Structure(
            kind,
            weight.shape,
            working,
            output_axis,
            input_axis,
            self.params.block,
            self.params.ratio[1] if self.params.ratio else 0,
        )
        outputs, inputs, _ = structure.matrix
        if kind == "n:m" and inputs % structure.group:
            raise ConfigError(
                f"{self.path('params.structure')}: found {self.params.structure}, and {node.name} has {inputs} inputs, "
                "expected a multiple of "
                f"{structure.group}: leave it out with ignored_scopes"
            )
        if kind == "block" and (outputs % structure.block[0] or inputs % structure.block[1]):
            raise ConfigError(
                f"{self.path('params.block')}: found {list(structure.block)}, and {node.name} has "
                f"{outputs} outputs and {inputs} inputs, expected divisors of these: leave it out with ignored_scopes"
            )
        return structure

    def _densities(self, graph: Graph, edits: Sequence[Edit], level: float | None = None) -> list[float]:
        """Of the edits' weights at `level`, by default the target's. ConfigError where a layer cannot have such a density."""
        level = self.params.level if level is None else level
        names = [edit.site.label for edit in edits]
        distribution = self.params.distribution if self.params.ratio is None else "uniform"
        shapes = {name: graph.shape_of(edit.site) for name, edit in zip(names, edits, strict=True)}
        density = densities(distribution, shapes, level, self.path("params.distribution"), self.validate_scopes)
        for name, structure, share in zip(names, self._structures(graph, edits), density, strict=True):
            if share * structure.groups[1] < 1 - 1e-9:
                units = structure.groups[1]
                what = "connections" if structure.unit_size == 1 else f"{self.params.structure}s"
                of = " of each output" if structure.kind == "constant_fan_in" else ""
                raise ConfigError(
                    f"{self.path('params.sparsity_target')}: found {level}, which leaves {name} "
                    f"{share * units:.2g} of {units} {what}{of}, expected at least one: "
                    "give it a level of its own in distribution, or leave it out with ignored_scopes"
                )
        return density

    def _structures(self, graph: Graph, edits: Sequence[Edit]) -> list[Structure]:
        found = [self._structure(graph[edit.site.node], graph.parameter_at(edit.site)) for edit in edits]
        return [structure for structure in found if isinstance(structure, Structure)]

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        by_edit = dict(zip((edit.key for edit in edits), self._densities(graph, edits), strict=True))

        def description(edit: Edit) -> str:
            return f"{self.params.method}: {1 - by_edit[edit.key]:.1%} without connection ({self.params.structure})"

        return summary_of_masks(graph, edits, description, self.params.level)

    def start(self) -> State:
        return {"moving": None, "updates": 0, "frozen": False, "sparse": True}

    def initialize(self, training: Training, state: State) -> State:
        self._listen(training)
        if self.params.method == "ac_dc":
            return {**state, "sparse": False}
        if self.params.method == "top_kast":
            self._choose_largest(training, state)
        elif self.params.method != "sr_ste":
            level = self.params.sparsity_init if self.params.method == "granet" else None
            for index, (edit, structure, kept) in enumerate(self._layers(training, level)):
                score = training.xp.asarray(random_scores(0, index, structure), like=training.attached.parameter(edit.site))
                self._connect(training, edit, structure, first_units(training.xp, structure, score, kept))
                if self.params.sparse_initialization:
                    mask = _as_numbers(training, edit, "mask")
                    gain = structure.gain(training.xp, mask)
                    training.attached.optimizer_hook.scale_parameter_and_moments(edit.site, gain)
        return state

    def resume(self, training: Training, state: State) -> None:
        self._listen(training)
        if state["moving"] is not None:
            training.attached.optimizer_hook.request_dense_gradients(training.after_optimizer_step)

    def _listen(self, training: Training) -> None:
        if self.params.method in _MOVES_IN_STEPS:
            training.attached.optimizer_hook.listen(dense=training.edits)
        elif self.params.method == "ac_dc":  # it moves connections between epochs, and their moments with them
            training.attached.optimizer_hook.listen()

    def check_state(self, training: Training, state: State) -> None:
        super().check_state(training, state)
        if state["moving"] is not None and self.params.method not in _MOVES_IN_STEPS:
            raise Unreadable(f"moving: found step {state['moving']}, expected none: {self.params.method} waits for no step's end")

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        if self.params.method != "ac_dc" or state["frozen"] or self._is_sparse(clock.epoch) == state["sparse"]:
            return state
        sparse = not state["sparse"]
        for edit, structure, kept in self._layers(training):
            xp, weight = training.xp, training.xp.stop_gradient(training.attached.parameter(edit.site))
            units = structure.units(xp, xp.abs(weight))
            self._connect(training, edit, structure, first_units(xp, structure, units, kept) if sparse else units == units)
        return {**state, "sparse": sparse, "updates": state["updates"] + 1}

    def _expect_no_step(self, training: Training) -> None:
        """RuntimeError where the weights were trained in a step whose gradients were asked for, and no optimizer gave them."""
        xp = training.xp
        for edit in training.edits:
            weight = xp.stop_gradient(training.attached.parameter(edit.site))
            gone = xp.where(_as_numbers(training, edit, "mask") > 0, xp.zeros_like(weight), weight)
            if int(xp.count_nonzero(gone)):
                raise RuntimeError(
                    f"{self.algorithm}: weights of {edit.site} without a connection were trained, and no optimizer was seen: "
                    "expected one of the framework's (torch.optim.Optimizer, keras.optimizers.Optimizer)"
                )

    def _is_sparse(self, epoch: int) -> bool:
        params = self.params
        assert params.final_epoch is not None
        if epoch >= params.final_epoch:
            return True
        phase = (epoch - params.warmup_epochs) % (params.compressed_epochs + params.decompressed_epochs)
        return epoch >= params.warmup_epochs and phase < params.compressed_epochs

    def step(self, training: Training, clock: Clock, state: State) -> State:
        due = clock.step > 0 and clock.step % self.params.update_interval == 0
        if self.params.end is not None and clock.step > self.params.end:
            due = False
        if not due or state["frozen"] or state["moving"] is not None:
            return state
        if self.params.method == "top_kast":
            self._choose_largest(training, state)
            return {**state, "updates": state["updates"] + 1}
        if self.params.method in _MOVES_IN_STEPS:
            training.attached.optimizer_hook.request_dense_gradients(training.after_optimizer_step)
            return {**state, "moving": clock.step}
        return state

    def after_optimizer_step(self, training: Training, state: State) -> State:
        if state["moving"] is None:
            return state
        gradients = training.attached.optimizer_hook.dense_gradients()
        if gradients is None:
            self._expect_no_step(training)
            return state
        xp, step = training.xp, state["moving"]
        wanted = {edit.key: kept for edit, _, kept in self._layers(training, self._level(step))}
        for index, (edit, structure, _) in enumerate(self._layers(training)):
            weight = xp.stop_gradient(training.attached.parameter(edit.site))
            present = structure.units(xp, _as_numbers(training, edit, "mask")) > 0
            count = int(xp.count_nonzero(present))
            after = wanted[edit.key] if self.params.method == "granet" else count
            moved = int(self.drop_fraction(step) * after)
            if after == count and (moved == 0 or count == present.shape[0] * present.shape[1]):
                continue
            if self.params.method == "set":
                score = xp.asarray(random_scores(step, index, structure), like=weight)
            elif edit.key in gradients:
                score = structure.units(xp, xp.abs(gradients[edit.key]))
            else:  # no gradient reached this layer
                continue
            size = structure.units(xp, xp.abs(weight))
            units = drop_and_grow(xp, structure, size, present, score, count - after + moved, moved)
            self._connect(training, edit, structure, units)
        return {**state, "moving": None, "updates": state["updates"] + 1}

    def drop_fraction(self, step: int) -> float:
        """alpha / 2 * (1 + cos(pi * step / end)) (Evci et al. 2020, eq. 1), or alpha."""
        if not self.params.is_annealed:
            return self.params.drop_fraction
        assert self.params.end is not None
        return self.params.drop_fraction / 2 * (1 + math.cos(math.pi * min(step / self.params.end, 1.0)))

    def _level(self, step: int) -> float | None:
        """granet: 1 - density by the cubic schedule of Zhu & Gupta 2017; else None, the target's."""
        if self.params.method != "granet":
            return None
        assert self.params.end is not None
        return polynomial(self.params.sparsity_init, self.params.level, step, self.params.end, 3, True)

    def _layers(self, training: Training, level: float | None = None) -> list[tuple[Edit, Structure, int]]:
        """Each edit with its structure, and the units that a group of it has at `level`."""
        graph, edits = training.graph, training.edits
        structures, shares = self._structures(graph, edits), self._densities(graph, edits, level)
        return [(e, s, s.kept_units(1 - d)) for e, s, d in zip(edits, structures, shares, strict=True)]

    def _connect(self, training: Training, edit: Edit, structure: Structure, units: Any) -> None:
        """Have exactly the connections `units`; those that were not there before start at zero, and so does their optimizer."""
        xp, before = training.xp, _as_numbers(training, edit, "mask")
        mask = structure.spread(xp, xp.cast_like(units, before))
        training.attached.optimizer_hook.scale_parameter_and_moments(edit.site, mask * before)
        training.attached.assign(edit, "mask", mask)

    def _choose_largest(self, training: Training, state: State) -> None:
        xp, extra = training.xp, self.params.extra_density
        for edit, structure, kept in self._layers(training):
            weight = xp.stop_gradient(training.attached.parameter(edit.site))
            size = structure.units(xp, xp.abs(weight))
            more = min(structure.groups[1], kept + round(extra * structure.groups[1]))
            for name, count in (("mask", kept), ("backward", more)):
                units = first_units(xp, structure, size, count)
                training.attached.assign(edit, name, structure.spread(xp, xp.cast_like(units, weight)))

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        return {**state, "frozen": frozen}

    def loss(self, training: Training, state: State) -> Any:
        """top_kast: regularization * (sum of w^2 that act + sum of w^2 trained besides / density) (Jayakumar et al. 2020, sec.
        2.2). sr_ste: decay / 2 * (sum of w^2 without connection), whose gradient is that of Zhou et al. 2021, eq. 9."""
        xp = training.xp
        terms = []
        if self.params.method == "top_kast":
            for edit, structure, kept in self._layers(training):
                w2 = xp.square(training.attached.parameter(edit.site))
                act, back = (_as_numbers(training, edit, name) for name in ("mask", "backward"))
                terms.append(xp.sum(w2 * act) + xp.sum(w2 * (back - act)) * (structure.groups[1] / kept))
            factor = self.params.regularization
        elif self.params.method == "sr_ste":
            for edit in training.edits:
                assert isinstance(edit.transform, NOfMMask)
                w = training.attached.parameter(edit.site)
                terms.append(xp.sum(xp.square(w) * (1 - edit.transform.mask(xp, w))))
            factor = self.params.decay / 2
        else:
            return None
        return factor * sum(terms[1:], terms[0]) if terms else None

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        if self.params.method == "ac_dc" and clock.epoch < (self.params.final_epoch or 0):
            return CompressionStage.PARTIALLY_COMPRESSED
        if self.params.method == "granet" and clock.step < (self.params.end or 0):
            return CompressionStage.PARTIALLY_COMPRESSED
        return CompressionStage.FULLY_COMPRESSED

    def schedule(self, clock: Clock, state: State) -> Mapping[str, Any]:
        """Levels as asked for; ac_dc's is 0 in its dense phases."""
        params, granet = self.params, self.params.method == "granet"
        current = params.level if state["sparse"] else 0.0
        if granet:
            step = max(clock.step, 0)
            current = self._level(step - step % params.update_interval)
        ends = {"target_epoch": params.final_epoch} if params.method == "ac_dc" else {"end": params.end}
        initial = params.sparsity_init if granet else 0.0 if params.method == "ac_dc" else params.level
        return {"current_sparsity_level": current, "initial_level": initial, "target_level": params.level, **ends}

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        if state["frozen"] or self.params.method == "sr_ste":
            return ()
        if self.params.method == "ac_dc":
            return ("epoch_step",) if clock.epoch < (self.params.final_epoch or 0) else ()
        ended = self.params.end is not None and clock.step >= self.params.end
        return () if self.params.method == "static" or ended else ("step",)

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if state["frozen"] or not training.edits or self.stage(clock, state) is CompressionStage.FULLY_COMPRESSED:
            return None
        when = f"epoch {self.params.final_epoch}" if self.params.method == "ac_dc" else f"step {self.params.end}"
        found = sparsity_measures(training, [self._mask_now(training, edit) for edit in training.edits])[
            "sparsity_level_for_layers"
        ]
        return f"found {found:.1%} without connection, expected {self.params.level:.1%} for good from {when} on"

    def report(self, training: Training, clock: Clock, state: State) -> DynamicSparsityStatistics:
        masks = [self._mask_now(training, edit) for edit in training.edits]
        inference, step = self._flops(training.graph, training.edits, masks)
        return DynamicSparsityStatistics(
            **sparsity_measures(training, masks),
            updates=state["updates"],
            inference_flops=inference,
            training_flops=step,
        )

    def _mask_now(self, training: Training, edit: Edit) -> np.ndarray:
        if isinstance(edit.transform, NOfMMask):
            weight = training.xp.stop_gradient(training.attached.parameter(edit.site))
            return training.adapter.to_numpy(edit.transform.mask(training.xp, weight))
        return training.variable(edit, "mask")

    def _flops(self, graph: Graph, edits: Sequence[Edit], masks: Sequence[np.ndarray]) -> tuple[float, float]:
        """Shares of the dense model's FLOPs in a forward, and in a training step on average with the connections as they are."""
        by_site = flops(graph)
        dense = sum(by_site.values())
        sparse, besides = float(dense), 0.0
        for edit, mask in zip(edits, masks, strict=True):
            own = sum(by_site.get(site, 0) for site in edit.sites)
            absent = 1 - np.count_nonzero(mask) / mask.size
            sparse -= own * absent
            besides += own * min(self.params.extra_density, absent)
        interval = self.params.update_interval
        step = 3 * sparse
        if self.params.method in _GROWS_BY_GRADIENT:
            step += (dense - sparse) / interval
        elif self.params.method == "top_kast":
            step += besides
        elif self.params.method == "sr_ste":
            step = sparse + 2 * dense
        return sparse / max(dense, 1), step / max(3 * dense, 1)


def _as_numbers(training: Training, edit: Edit, name: str) -> Any:
    """A mask as ones and zeros of the weight's type."""
    return training.xp.cast_like(training.attached.variables(edit)[name], training.attached.parameter(edit.site))
