"""Filter pruning: whole filters are masked, to a level that a schedule raises, and leave the stripped model (NNCF 2.x)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training
from nncf_ext.calibration.initialization import LeGRInitArgs
from nncf_ext.channels.groups import ChannelGroup, channel_groups
from nncf_ext.channels.prunable import (
    Keep,
    PrunableModel,
    by_share,
    least_important,
    least_important_for_flops,
    most_without_emptying,
    same_share,
    same_share_for_flops,
)
from nncf_ext.config.filter_pruning import FilterPruningConfig
from nncf_ext.edits import MASK, Edit, Plan, Range, Removal, Transform, Var
from nncf_ext.errors import ConfigError, choose
from nncf_ext.files.json_text import Unreadable
from nncf_ext.files.schema import Finite, Share
from nncf_ext.graph import Graph, Node, Site
from nncf_ext.ops import STATISTICS, channels_of, has_weight, makers
from nncf_ext.schedules import Clock, exponential, exponential_with_bias
from nncf_ext.scopes import MARKER, Inherited, considered, matches, select
from nncf_ext.sparsity.importance import norm, unit_importance
from nncf_ext.sparsity.ranking import Coefficients, TrialController, learn_ranking, load_coefficients, save_coefficients

_NAMED = 10  # layers of which a warning tells
_NONE = "has no channels that could be pruned"


class PruningWarning(UserWarning):
    """Something that is not pruned, though the config does not say so."""


class FilterMask(Transform):
    """x * mask, with a value (1 keep, 0 prune) per index along each of `axes`. Pruned filters keep their weights while masks
    change, and may come back."""

    kind: Literal["filter_mask"] = "filter_mask"
    stage: ClassVar[int] = MASK

    axes: tuple[int, ...]

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        sizes = [size if axis in self.axes else 1 for axis, size in enumerate(shape)]
        return self, {"mask": Var(np.ones(sizes, bool))}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x * xp.cast_like(variables["mask"], x)


@dataclass(frozen=True)
class PrunedLayer:
    """pruned_level: share of its filters that are pruned."""

    name: str
    shape: tuple[int, ...]
    pruned_level: float

    # NNCF 2.x's names

    @property
    def weight_shape(self) -> list[int]:
        return list(self.shape)

    @property
    def filter_pruning_level(self) -> float:
        return self.pruned_level


@dataclass(frozen=True)
class FilterPruningStatistics:
    """Of the model as it is when the pruned channels are taken out. `pruning_level`: share of the prunable filters that are
    pruned; `target_pruning_level`: what the schedule asks for now, of FLOPs with pruning_flops_target."""

    pruning_level: float
    target_pruning_level: float
    full_flops: int
    current_flops: int
    full_params_num: int
    current_params_num: int
    full_filters_num: int
    current_filters_num: int
    layers: tuple[PrunedLayer, ...]

    # NNCF 2.x's ways to the same numbers

    @property
    def model_statistics(self) -> FilterPruningStatistics:
        return self

    @property
    def pruned_layers_summary(self) -> tuple[PrunedLayer, ...]:
        return self.layers

    @property
    def current_pruning_level(self) -> float:
        return self.target_pruning_level

    @property
    def flops_pruning_level(self) -> float:
        return 1 - self.current_flops / self.full_flops

    @property
    def params_pruning_level(self) -> float:
        return 1 - self.current_params_num / self.full_params_num

    @property
    def filter_pruning_level(self) -> float:
        return 1 - self.current_filters_num / self.full_filters_num

    @property
    def tensorboard_scalars(self) -> dict[str, float]:
        return {
            "algo_current_pruning_level": self.current_pruning_level,
            "model_FLOPS_pruning_level": self.flops_pruning_level,
            "model_params_pruning_level": self.params_pruning_level,
            "model_filters_pruning_level": self.filter_pruning_level,
        }


@dataclass(frozen=True)
class PlannedGroup:
    """Filters that are pruned together, or why they are not. stay: how many are left in the end, where the config tells."""

    group: int | str
    filters: int
    stay: int | str
    made_by: str
    left_alone: str


@dataclass(frozen=True)
class PlannedPruning:
    """The numbers at the end are those of the stripped model; None where the weights decide."""

    target: str
    prunable_filters: int
    full_flops: int
    flops_at_the_end: int | None
    full_params_num: int
    params_num_at_the_end: int | None
    groups: tuple[PlannedGroup, ...]


class FilterPruningState(Remembered):
    """level_by_group: where the user gave one for each; pruned: share of the units that went at this level; ranking: scale and
    shift by layer."""

    level: Share
    pruned: Share
    level_by_group: dict[str, Share]
    frozen: bool
    scheduled: bool
    ranking: dict[str, Annotated[list[Finite], Field(min_length=2, max_length=2)]]


class FilterPruning(FilterPruningConfig, Algorithm):
    remembers: ClassVar[type[Remembered]] = FilterPruningState
    transforms: ClassVar[tuple[type[Transform], ...]] = (FilterMask,)
    commands: ClassVar[tuple[str, ...]] = ("set_pruning_level",)
    readings: ClassVar[tuple[str, ...]] = (
        "pruning_level",
        "current_groupwise_pruning_level",
        "pruned_module_groups_info",
        "full_flops",
        "current_flops",
    )

    _prunable: PrunableModel | None = PrivateAttr(None)  # of the model compressed last: finding the groups takes a while

    @property
    def needs_copy(self) -> bool:
        return True

    def plan(self, graph: Graph, target_device: str) -> Plan:
        select([node.name for node in graph.nodes], self.ignored_scopes, self.target_scopes, self.validate_scopes, self.path())
        groups, refused = self._divided(graph)
        self._check_named(refused)
        if not groups:
            why = next(iter(refused.items()), ("the model", "has no layer with filters"))
            raise ConfigError(f"{self.path()}: found no filter that can be pruned: {': '.join(why)}")
        self._prunable = model = PrunableModel(graph, groups)
        self._check_target(model)
        self._check_that_filters_go(model)
        axes: dict[str, set[int]] = {}
        for member in (member for group in groups for member in group.members if self._is_masked(graph, member)):
            axes.setdefault(model.parameter(member.site), set()).add(member.axis)
        sites: dict[str, list[Site]] = {name: [] for name in axes}
        for node in graph.nodes:
            for parameter in node.parameters:
                if parameter.name in sites:
                    sites[parameter.name].append(Site(node.name, parameter.slot))
        edits = tuple(Edit(tuple(sites[name]), FilterMask(axes=tuple(sorted(axes[name]))), self.algorithm) for name in axes)
        return Plan(edits, tuple(refused.items()))

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        model = self._model_of(graph)
        keep = model.everything()
        if not self.params.all_weights:  # then it is not the weights that decide how many filters go in which layer
            keep = self._chosen(model, [np.zeros(group.size) for group in model.groups], self.params.target)
        cost = None if self.params.all_weights else model.cost(keep)
        numbers = {group.name: number for number, group in enumerate(model.groups, 1)}
        left = {group.name: "?" if cost is None else int(units.sum()) for group, units in zip(model.groups, keep, strict=True)}
        first = graph.first_reached(lambda node: node.op == "Conv")
        groups = []
        for group in channel_groups(graph):
            makers = "\n".join(dict.fromkeys(m.site.node for m in group.members if m.role == "output"))
            objection = " ".join(self._objection(graph, group, first) or ()).strip()
            number, stay = ("-", group.size) if objection else (numbers[group.name], left[group.name])
            groups.append(PlannedGroup(number, group.size, stay, makers, objection))
        of = "FLOPs" if self.params.pruning_flops_target is not None else "filters"
        report = PlannedPruning(
            f"{self.params.target:.0%} of the {of}",
            sum(group.size for group in model.groups),
            model.full.flops,
            None if cost is None else cost.flops,
            model.full.parameters,
            None if cost is None else cost.parameters,
            tuple(groups),
        )
        return PlanSummary(self._at_sites(model, keep, cost is not None), report, self._by_data())

    def start(self) -> State:
        return {"level": 0.0, "pruned": 0.0, "level_by_group": {}, "frozen": False, "scheduled": True, "ranking": {}}

    def initialize(self, training: Training, state: State) -> State:
        if self.params.interlayer_ranking_type == "learned_ranking":
            state = {**state, "ranking": {layer: list(pair) for layer, pair in self._ranking(training).items()}}
        return self._prune(training, state, self.pruning_init if self.params.num_init_steps == 0 else 0.0)

    def take_up(self, training: Training, clock: Clock, state: State, saved: Mapping[str, Any]) -> State:
        level = state["level"] if clock.epoch < 0 else self.level(clock.epoch)
        return {**state, "level": level, "frozen": self._freezes(clock)}

    def check_state(self, training: Training, state: State) -> None:
        super().check_state(training, state)
        groups = {group.name for group in self._model(training).groups}
        if state["level_by_group"] and set(state["level_by_group"]) != groups:
            odd = min(set(state["level_by_group"]) ^ groups)
            raise Unreadable(f"level_by_group: expected a level for each group of the model, {odd[:200]!r} is in one only")

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        if state["frozen"]:
            return state
        if state["scheduled"]:
            state = self._prune(training, state, self.level(clock.epoch))
        else:  # the level was set by hand: only which filters go is decided anew
            state = self._prune(training, state, state["level_by_group"] or state["level"])
        return {**state, "frozen": self._freezes(clock)}

    def _freezes(self, clock: Clock) -> bool:
        rising = 0 if self.params.schedule == "baseline" else self.params.pruning_steps
        return clock.epoch >= self.params.num_init_steps + rising

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        if state["level"] >= self.params.target:
            return CompressionStage.FULLY_COMPRESSED
        return CompressionStage.UNCOMPRESSED if state["level"] == 0 else CompressionStage.PARTIALLY_COMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        rises = not state["frozen"] and state["scheduled"] and state["level"] < self.params.target
        return ("epoch_step",) if rises else ()

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        found = _share_pruned(self._kept(training, self._model(training))) if state["pruned"] else 0.0
        if found < state["pruned"] - 1e-6:  # weights were loaded after the schedule had gone on
            return f"found masks of an earlier epoch, with {found:.1%} of the filters pruned, expected {state['pruned']:.1%}"
        if not self.awaits(clock, state):
            return None
        rising = 0 if self.params.schedule == "baseline" else self.params.pruning_steps - 1
        level, target, of = state["level"], self.params.target, "FLOPs" if self.params.pruning_flops_target else "filters"
        return f"found {level:.1%} of the {of} pruned, expected {target:.1%} from epoch {self.params.num_init_steps + rising} on"

    def level(self, epoch: float) -> float:
        """The schedule: share wanted in epoch `epoch`, of filters or of FLOPs."""
        params = self.params
        since = epoch - params.num_init_steps
        if since < 0:
            return 0.0
        if params.schedule == "baseline":
            return params.target
        rise = exponential if params.schedule == "exponential" else exponential_with_bias
        return rise(self.pruning_init, params.target, since, max(params.pruning_steps - 1, 0))

    def schedule(self, clock: Clock, state: State) -> Mapping[str, Any]:
        rising = 0 if self.params.schedule == "baseline" else self.params.pruning_steps
        return {
            "current_pruning_level": state["level"],
            "initial_level": self.pruning_init,
            "target_level": self.params.target,
            "target_epoch": self.params.num_init_steps + max(rising - 1, 0),
            "freeze_epoch": self.params.num_init_steps + rising,
        }

    def compression_rate(self, training: Training, state: State) -> float:
        """Share that is pruned: of FLOPs with pruning_flops_target, else the level."""
        if self.params.pruning_flops_target is None:
            return state["level"]
        model = self._model(training)
        return 1 - model.cost(self._kept(training, model)).flops / model.full.flops

    def maximal_compression_rate(self, training: Training) -> float:
        return self._highest_level(self._model(training))

    def set_compression_rate(self, training: Training, state: State, rate: float) -> State:
        return {**self._prune(training, state, rate), "scheduled": False}

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        return {**state, "frozen": frozen}

    def set_pruning_level(
        self,
        training: Training,
        state: State,
        pruning_level: float | Mapping[str, float],
        run_batchnorm_adaptation: bool = False,
    ) -> State:
        """Prune to a level now, and end the schedule. A mapping from names of groups (`pruned_module_groups_info`) to shares of
        their filters leaves the other groups as they are. ValueError for a level or a name that cannot be."""
        levels: Any = pruning_level
        if isinstance(pruning_level, Mapping):
            if self.params.all_weights or self.params.pruning_flops_target is not None:
                raise ValueError("set_pruning_level: found levels by group, expected one level with all_weights or FLOPs")
            present = self.current_groupwise_pruning_level(training, state)
            odd = next((name for name in pruning_level if name not in present), None)
            if odd is not None:
                raise ValueError(f"set_pruning_level: found no group {odd!r}, {choose(odd, present)}")
            levels = {**present, **pruning_level}
        highest = self.maximal_compression_rate(training)
        for level in levels.values() if isinstance(levels, Mapping) else (levels,):
            if not 0 <= level <= highest:
                raise ValueError(f"set_pruning_level: found {level}, expected between 0 and {highest:.4f}")
        return {**self._prune(training, state, levels), "scheduled": False}

    def pruning_level(self, training: Training, state: State) -> float:
        return state["level"]

    def current_groupwise_pruning_level(self, training: Training, state: State) -> dict[str, float]:
        """Share of the pruned filters in every group."""
        model = self._model(training)
        keep = self._kept(training, model)
        return {group.name: 1 - float(units.mean()) for group, units in zip(model.groups, keep, strict=True)}

    def pruned_module_groups_info(self, training: Training, state: State) -> dict[str, tuple[str, ...]]:
        """The layers whose filters are pruned together, by the name of their group."""
        return {
            group.name: tuple(dict.fromkeys(m.site.node for m in group.members if m.role == "output"))
            for group in self._model(training).groups
        }

    def full_flops(self, training: Training, state: State) -> int:
        return self._model(training).full.flops

    def current_flops(self, training: Training, state: State) -> int:
        model = self._model(training)
        return model.cost(self._kept(training, model)).flops

    def removals(self, training: Training, state: State) -> tuple[Removal, ...]:
        model = self._model(training)
        keep = [
            units if self._is_exact(training.graph, group) else np.ones_like(units)
            for group, units in zip(model.groups, self._kept(training, model), strict=True)
        ]
        return model.removals(keep)

    def report(self, training: Training, clock: Clock, state: State) -> FilterPruningStatistics:
        model = self._model(training)
        keep = self._kept(training, model)
        now, stays = model.cost(keep), model.kept(keep)
        weights = {
            weight.name: (node, weight)
            for node in reversed(training.graph.nodes)
            for weight in reversed(makers(node) if node.op != "Gather" else ())
        }
        axes = {model.parameter(edit.site): _mask_of(edit).axes for edit in training.edits}
        full = current = 0
        layers = []
        for name, (node, weight) in reversed(weights.items()):
            filters = left = channels_of(node, weight)
            if name in axes:
                shares = [stays[name, axis].mean() for axis in axes[name]]
                left = round(filters * math.prod(shares))
                layers.append(PrunedLayer(Site(node.name, weight.slot).label, weight.shape, 1 - float(math.prod(shares))))
            full, current = full + filters, current + left
        return FilterPruningStatistics(
            _share_pruned(keep),
            state["level"],
            model.full.flops,
            now.flops,
            model.full.parameters,
            now.parameters,
            full,
            current,
            tuple(layers),
        )

    # Which groups ---------------------------------------------------------------------------------------------------------

    def _model(self, training: Training) -> PrunableModel:
        return self._model_of(training.graph)

    def _model_of(self, graph: Graph) -> PrunableModel:
        if self._prunable is None or self._prunable.graph is not graph:  # of another model, or read from a checkpoint
            self._prunable = PrunableModel(graph, self._divided(graph)[0])
        return self._prunable

    def _at_sites(self, model: PrunableModel, keep: Keep, known: bool) -> dict[Site, str]:
        """What happens to the parameters with channels of the groups, in words. known: how many stay is."""
        stays = model.kept(keep)
        description: dict[str, dict[str, None]] = {}
        for number, group in enumerate(model.groups, 1):
            for member in group.members:
                name = model.parameter(member.site)
                if member.role == "output":
                    left = stays[name, member.axis]
                    text = f"filters: {left.sum()} of {left.size} stay" if known else f"filters: some of {left.size} go"
                else:
                    text = "inputs follow" if member.role == "input" else "follows"
                description.setdefault(name, {})[f"{text} (group {number})"] = None
        return {
            Site(node.name, parameter.slot): ", ".join(sorted(description[parameter.name]))
            for node in model.graph.nodes
            for parameter in node.parameters
            if parameter.name in description
        }

    def _by_data(self) -> tuple[str, ...]:
        params = self.params
        if params.interlayer_ranking_type != "learned_ranking" or params.load_ranking_coeffs_path is not None:
            return ()
        trials, steps = params.legr_params.generations, params.legr_params.train_steps
        return (f"the ranking of filters, by a search (LeGR) of {trials} trials of {steps} training steps",)

    def _divided(self, graph: Graph) -> tuple[list[ChannelGroup], dict[str, str]]:
        """The groups to prune; and why not, for every node with a weight that has no channel in them."""
        first = graph.first_reached(lambda node: node.op == "Conv")
        groups: list[ChannelGroup] = []
        refused = {node.name: _NONE for node in graph.nodes if has_weight(node)}
        chosen: set[str] = set()
        for group in channel_groups(graph):
            nodes = {member.site.node for member in group.members if member.role != "input"}
            objection = self._objection(graph, group, first)
            if objection is None:
                groups.append(group)
                chosen |= nodes
                continue
            culprit, reason = objection
            for name in nodes & set(refused):
                refused[name] = reason if culprit in ("", name) else f"is coupled with {culprit}, which {reason}"
        return groups, {name: reason for name, reason in refused.items() if name not in chosen}

    def _objection(self, graph: Graph, group: ChannelGroup, first: set[str]) -> tuple[str, str] | None:
        """Why a group is left alone, if it is: (the node that it is about, or "", and what is with it)."""
        if group.blocked is not None:
            return "", f"its channels have to stay: {group.blocked}"
        nodes = {member.site.node: graph[member.site.node] for member in group.members if member.role != "input"}
        for name, node in nodes.items():
            if matches(name, self.ignored_scopes):
                return name, "is in ignored_scopes"
            if has_weight(node) and not considered(name, (), self.target_scopes):
                return name, "is not in target_scopes"
            if not self.params.prune_first_conv and name in first:
                return name, "is a first convolution, and prune_first_conv is false"
            if not self.params.prune_downsample_convs and node.op == "Conv" and _stride(node) > 1:
                return name, "has a stride, and prune_downsample_convs is false"
        return None

    def _check_named(self, refused: Mapping[str, str]) -> None:
        """ConfigError where target_scopes names exactly what cannot be pruned."""
        for pattern in self.target_scopes or ():
            if MARKER in pattern or isinstance(pattern, Inherited):
                continue
            for name, reason in refused.items():
                if matches(name, (pattern,)):
                    path = self.path("target_scopes")
                    raise ConfigError(f"{path}: {name} cannot be pruned: {reason}; change that, or take it out of target_scopes")

    def _is_masked(self, graph: Graph, member: Any) -> bool:
        if member.role == "input" or member.site.slot in STATISTICS:
            return False
        return self.params.prune_batch_norms or graph[member.site.node].op != "BatchNormalization"

    def _is_exact(self, graph: Graph, group: ChannelGroup) -> bool:
        """Whether a pruned unit contributes nothing, so that it can be taken out."""
        return self.params.prune_batch_norms or all(
            graph[member.site.node].op != "BatchNormalization" for member in group.members
        )

    # Which filters --------------------------------------------------------------------------------------------------------

    def _highest_level(self, model: PrunableModel) -> float:
        """Largest level that pruning can reach."""
        if self.params.pruning_flops_target is not None:
            scores = [np.zeros(group.size) for group in model.groups]
            return 1 - model.cost(self._chosen(model, scores, 1.0)).flops / model.full.flops
        if self.params.all_weights:
            return most_without_emptying(model.groups) / sum(group.size for group in model.groups)
        return 1.0

    def _check_target(self, model: PrunableModel) -> None:
        """ConfigError for a target that would empty a layer, or that the prunable layers cannot reach."""
        flops = self.params.pruning_flops_target is not None
        key = "params.pruning_flops_target" if flops else "params.pruning_target"
        if flops and model.costs.unknown_sizes:
            raise ConfigError(
                f"{self.path(key)}: the outputs of {model.costs.unknown_sizes[0]} have no fixed size, so that operations "
                "cannot be counted; expected a model with fixed input sizes, or pruning_target"
            )
        highest = self._highest_level(model)
        why = "the rest is in layers that are not pruned" if flops else "more would empty a layer"
        for name, level in ((key, self.params.target), ("params.legr_params.max_pruning", self.params.legr_params.max_pruning)):
            if level is not None and level > highest:
                raise ConfigError(f"{self.path(name)}: found {level}, expected at most {highest:.4f}: {why}")

    def _check_that_filters_go(self, model: PrunableModel) -> None:
        """ConfigError where the target prunes nothing, a PruningWarning that names the layers that lose nothing.

        Under all_weights the weights decide which layers lose something."""
        if self.params.target == 0:
            return
        keep = self._chosen(model, [np.zeros(group.size) for group in model.groups], self.params.target)
        whole = [(group, step) for group, step, units in zip(model.groups, model.steps, keep, strict=True) if units.all()]
        if not whole or (self.params.all_weights and len(whole) < len(model.groups)):
            return
        key = self.path("params.pruning_target" if self.params.pruning_flops_target is None else "params.pruning_flops_target")
        if self.params.all_weights:
            needed = 1 / sum(group.size for group in model.groups)
            raise ConfigError(f"{key}: {self.params.target} prunes no filter at all, expected at least {needed:.2g}")
        said = "each layer keeps a multiple of 8 filters at least (all_weights has no such rule)"
        names = ", ".join(f"{_makers(group)} ({_needs(group.size, step)})" for group, step in whole[:_NAMED])
        names += f", ... ({len(whole)} in all)" if len(whole) > _NAMED else ""
        if len(whole) == len(model.groups):
            raise ConfigError(f"{key}: {self.params.target} prunes nothing: {said}: {names}")
        spread = f"in {len(whole)} of {len(model.groups)} groups of layers"
        warnings.warn(f"{key}: {self.params.target} prunes nothing {spread}: {said}: {names}", PruningWarning, stacklevel=2)

    def _chosen(self, model: PrunableModel, scores: Sequence[np.ndarray], level: float) -> list[np.ndarray]:
        """The units that stay at `level`, given the importance of each."""
        if self.params.pruning_flops_target is not None:
            choose = least_important_for_flops if self.params.all_weights else same_share_for_flops
            return choose(model, scores, round((1 - level) * model.full.flops))
        if self.params.all_weights:
            total = sum(len(score) for score in scores)
            return least_important(scores, min(round(level * total), most_without_emptying(model.groups)))
        return same_share(model, scores, level)

    def _importances(self, training: Training, model: PrunableModel) -> list[dict[str, np.ndarray]]:
        """For each group the importance of its units in the layers that make its channels, by layer."""
        xp, found = training.xp, []
        for group in model.groups:
            by_layer: dict[str, np.ndarray] = {}
            made = {(model.parameter(m.site), m.axis): m for m in reversed(group.members) if m.role == "output"}
            for layer in dict.fromkeys(member.site.node for member in reversed(made.values())):
                own = [member for member in reversed(made.values()) if member.site.node == layer]
                made_by = [(training.attached.parameter(member.site), member.axis, member.units) for member in own]
                importance = unit_importance(xp, made_by, group.size, self.params.filter_importance)
                if self.params.all_weights and self.params.interlayer_ranking_type == "unweighted_ranking":
                    importance = importance / norm(xp, [weight for weight, *_ in made_by])
                by_layer[layer] = training.adapter.to_numpy(importance)
            found.append(by_layer)
        return found

    def _scores(self, training: Training, model: PrunableModel, ranking: Mapping[str, Sequence[float]]) -> list[np.ndarray]:
        """What each group's units are ranked by: their importances, scaled and shifted where a ranking was learned, in sum."""
        scores = []
        for by_layer in self._importances(training, model):
            pairs = [(ranking.get(layer, (1.0, 0.0)), importance) for layer, importance in by_layer.items()]
            scores.append(np.sum([scale * importance + shift for (scale, shift), importance in pairs], axis=0))
        return scores

    def _ranking(self, training: Training) -> Coefficients:
        """Coefficients from the file or from a search, which leaves the model as it was."""
        params, attached = self.params, training.attached
        model = self._model(training)
        importances = {layer: score for by_layer in self._importances(training, model) for layer, score in by_layer.items()}
        if params.load_ranking_coeffs_path is not None:
            json_path = self.path("params.load_ranking_coeffs_path")
            return load_coefficients(Path(params.load_ranking_coeffs_path), list(importances), json_path)
        user = training.extra(LeGRInitArgs)
        if user is None:
            raise ConfigError(
                f"{self.path('params.interlayer_ranking_type')}: learned_ranking needs train_steps_fn, validate_fn and "
                "val_loader of register_default_init_args, or load_ranking_coeffs_path"
            )
        save_path = None if params.save_ranking_coeffs_path is None else Path(params.save_ranking_coeffs_path)
        if save_path is not None and not save_path.parent.is_dir():
            raise ConfigError(f"{self.path('params.save_ranking_coeffs_path')}: {str(save_path.parent)!r} is no folder")
        level = params.target if params.legr_params.max_pruning is None else params.legr_params.max_pruning
        before = {name: value.copy() for name, value in training.adapter.tensors(attached.model).items()}
        controller = TrialController(training.xp.asarray(np.float32(0)))

        def loss_of(coefficients: Coefficients) -> float:
            try:
                self._assign(training, model, self._chosen(model, self._scores(training, model, coefficients), level))
                user.train(attached.model, controller, params.legr_params.train_steps)
                return training.adapter.broadcast_from_rank0(user.validate(attached.model))
            finally:
                training.adapter.load_tensors(attached.model, before)

        spreads = {layer: float(score.std()) for layer, score in importances.items()}
        ranking = learn_ranking(spreads, params.legr_params, loss_of)
        if save_path is not None:
            save_coefficients(save_path, ranking)
        return ranking

    def _prune(self, training: Training, state: State, level: float | Mapping[str, float]) -> State:
        """Mask the filters that go at `level`, which may be one for each group."""
        model = self._model(training)
        scores = self._scores(training, model, state["ranking"])
        if not isinstance(level, Mapping):
            keep = self._chosen(model, scores, level)
            self._assign(training, model, keep)
            return {**state, "level": level, "pruned": _share_pruned(keep), "level_by_group": {}}
        keep = by_share(model, scores, [level[group.name] for group in model.groups])
        self._assign(training, model, keep)
        weights = [sum(model.elements(m) for m in group.members if m.role == "output") for group in model.groups]
        mean = float(np.average([level[group.name] for group in model.groups], weights=weights))
        return {**state, "level": mean, "pruned": _share_pruned(keep), "level_by_group": dict(level)}

    def _assign(self, training: Training, model: PrunableModel, keep: Keep) -> None:
        stays = model.kept(keep)
        for edit in training.edits:
            shape = training.graph.shape_of(edit.site)
            mask = np.ones((), bool)
            for axis in _mask_of(edit).axes:
                sizes = [size if a == axis else 1 for a, size in enumerate(shape)]
                mask = mask & stays[model.parameter(edit.site), axis].astype(bool).reshape(sizes)
            training.attached.assign(edit, "mask", mask)

    def _kept(self, training: Training, model: PrunableModel) -> list[np.ndarray]:
        """The units that the masks keep."""
        masks = {}
        for edit in training.edits:
            mask = training.variable(edit, "mask")
            for axis in _mask_of(edit).axes:
                others = tuple(a for a in range(mask.ndim) if a != axis)
                masks[model.parameter(edit.site), axis] = mask.any(axis=others)
        keep = model.everything()
        for units, group in zip(keep, model.groups, strict=True):
            member = next(m for m in group.members if m.role == "output")
            of_unit = np.asarray(member.units)
            stays = masks[model.parameter(member.site), member.axis]
            units[of_unit[of_unit >= 0]] = stays[of_unit >= 0]
        return keep


def _makers(group: ChannelGroup) -> str:
    """The first of the layers whose outputs are the group's channels, and how many there are besides."""
    makers = list(dict.fromkeys(m.site.node for m in group.members if m.role == "output"))
    return makers[0] + (f" and {len(makers) - 1} coupled with it" if len(makers) > 1 else "")


def _needs(size: int, step: int) -> str:
    """Of `size` units that go in steps: from which level on some do (see `by_share`)."""
    most = (math.ceil(size / step) - 1) * step
    return f"{size}: from {1 - most / size:.4g} on" if most else f"{size}: never"


def _share_pruned(keep: Sequence[Any]) -> float:
    return 1 - float(np.concatenate(keep).mean())


def _mask_of(edit: Edit) -> FilterMask:
    assert isinstance(edit.transform, FilterMask)
    return edit.transform


def _stride(node: Node) -> int:
    """The largest stride of a convolution."""
    stride = node.attrs.get("strides", 1)
    return max(stride) if isinstance(stride, Sequence) else stride
