"""Knowledge distillation: the compressed model imitates the outputs of the original one (Hinton et al. 2015; NNCF 2.x)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext.algorithm import Algorithm, PlanningContext, PlanSummary, State, Training
from nncf_ext.config.knowledge_distillation import FeaturePair, KnowledgeDistillationConfig
from nncf_ext.data import model_inputs
from nncf_ext.distillation.losses import (
    ValidPositions,
    attention_difference,
    check_cache,
    mean_squared_error,
    outputs_loss,
    projected,
)
from nncf_ext.distillation.teacher_cache import TeacherCache, write_cache
from nncf_ext.edits import CARRY, Edit, Plan, Range, Transform, Var
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph, Site
from nncf_ext.ops import is_channels_last
from nncf_ext.scopes import matched_by

_WORDS = {"mse": "mean squared error", "softmax": "cross-entropy of softmax", "kl": "divergence of softmax"}


@dataclass(frozen=True)
class PlannedDistillation:
    loss: str
    teacher: str


class Feature(Transform):
    """The tensor as it is; the loss compares it with the output of the teacher's node `teacher`.

    axis: of the channels. channels: of the teacher, where they are not as many as here; then the variable `projection` (channels
    here, channels there) is learned with the weights. Both are known when the teacher is.
    """

    kind: Literal["feature"] = "feature"
    stage: ClassVar[int] = CARRY
    teacher: str
    axis: int = -1
    channels: int | None = None

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        if self.channels is None:
            return self, {}
        size = shape[self.axis]
        start = np.random.default_rng(0).normal(0, 1 / math.sqrt(size), (size, self.channels))
        return self, {"projection": Var(start.astype(np.float32), trainable=True)}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x


class KnowledgeDistillation(KnowledgeDistillationConfig, Algorithm):
    transforms: ClassVar[tuple[type[Transform], ...]] = (Feature,)
    commands: ClassVar[tuple[str, ...]] = ("cache_teacher",)

    @property
    def needs_teacher(self) -> bool:
        return True

    @property
    def factor(self) -> float:
        """Of the outputs' term: Hinton's a where the task's loss has the weight 1 - a."""
        given = "scale" in self.model_fields_set or self.task_weight is None
        return self.scale if given else 1 - (self.task_weight or 0)

    @property
    def weight_of_task(self) -> float:
        return 1.0 if self.task_weight is None else self.task_weight

    def plan(self, graph: Graph, target_device: str) -> Plan:
        edits: list[Edit] = []
        for index, pair in enumerate(self.features):
            node = _node(graph, pair.student, f"features[{index}].student")
            if any(edit.site.node == node for edit in edits):
                raise ConfigError(f"features[{index}].student: found {node!r} a second time, expected one entry for a node")
            teacher = node if pair.teacher is None else pair.teacher
            edits.append(Edit((Site(node, "output"),), Feature(teacher=teacher), self.algorithm))
        return Plan(tuple(edits))

    def refine(self, plan: Plan, context: PlanningContext) -> Plan:
        own = plan.of(self.algorithm)
        if not own:
            return plan
        of_teacher = context.teacher_graph()
        known = {
            edit.key: replace(edit, transform=_fitted(edit, pair, context.graph, of_teacher, f"features[{index}]"))
            for index, (edit, pair) in enumerate(zip(own, self.features, strict=True))
        }
        return replace(plan, edits=tuple(known.get(edit.key, edit) for edit in plan))

    def teacher_sites(self, edits: Sequence[Edit], graph: Graph, teacher_graph: Callable[[], Graph]) -> Mapping[Site, Site]:
        sites = {}
        for index, (edit, pair) in enumerate(zip(edits, self.features, strict=True)):
            fitted = _fitted(edit, pair, graph, teacher_graph(), f"features[{index}]")
            if fitted != edit.transform:
                raise ConfigError(
                    f"features[{index}].teacher: found {fitted!r}, expected {edit.transform!r} as with the first teacher"
                )
            sites[edit.site] = Site(fitted.teacher, "output")
        return sites

    def check_cache(self, cache: TeacherCache) -> None:
        check_cache(self, cache)
        if self.features:
            raise ConfigError("teacher: a cache has outputs, no features: expected a model")

    def cache_teacher(self, training: Training, state: State, path: Any, batches: Iterable[Any], top_k: int) -> State:
        """Run the teacher once over `batches` (any kind in docs/data.md) and write its answers for `TeacherCache`."""
        batches = list(batches) if isinstance(batches, tuple) else batches  # nobody needs targets here
        given = model_inputs(training.adapter.data, training.teacher, batches, "cache_teacher")
        write_cache(path, training.adapter, training.teacher, given, top_k, self.temperature)
        return state

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        loss = f"{self.factor:g} * {_WORDS[self.type]}" + ("" if self.type == "mse" else f" at temperature {self.temperature:g}")
        if self.weight_of_task != 1:
            loss = f"{self.weight_of_task:g} * the task's loss + {loss}"
        at = {edit.site: f"compared with {getattr(edit.transform, 'teacher', '')} of the teacher" for edit in edits}
        return PlanSummary(at, PlannedDistillation(loss, "the uncompressed model, unless another one is given"))

    def loss(self, training: Training, state: State) -> Any:
        """Sum over the model's outputs, beside that over features; RuntimeError before the first training forward."""
        total = None
        if self.factor or not self.features:  # a detector's outputs in training are losses: there are features to compare only
            total = outputs_loss(training.xp, self, training.outputs, training.extra(ValidPositions), self.algorithm)
        outputs = {} if total is None else {"outputs": self.factor * total}
        if not self.features:
            return outputs.get("outputs")
        pairs = zip(training.edits, self.features, strict=True)
        return {**outputs, "features": sum(pair.weight * _difference(training, edit, pair) for edit, pair in pairs)}


def _difference(training: Training, edit: Edit, pair: FeaturePair) -> Any:
    """Of the features in the last training forward, in float32."""
    assert isinstance(edit.transform, Feature)
    xp, features = training.xp, {} if training.outputs is None else training.outputs.features
    if edit.site not in features:
        raise RuntimeError(
            f"{edit.site}: no tensor passed there, or at {edit.transform.teacher} of the teacher, in the last forward"
        )
    student, teacher = (xp.cast_like(x, xp.asarray(np.float32(0))) for x in features[edit.site])
    if pair.loss == "attention":
        return attention_difference(xp, student, teacher, edit.transform.axis)
    if edit.transform.channels is not None:
        student = projected(xp, student, training.variables(edit)["projection"], edit.transform.axis)
    return mean_squared_error(xp, student, teacher)


def _node(graph: Graph, scope: str, path: str) -> str:
    """The one node that a scope is about."""
    found = sorted(matched_by(scope, [node.name for node in graph.nodes], path))
    if len(found) > 1:
        raise ConfigError(f"{path}: {scope!r} matches {len(found)} nodes, {found[0]!r} and {found[1]!r} among them, expected one")
    return found[0]


def _fitted(edit: Edit, pair: FeaturePair, graph: Graph, of_teacher: Graph, path: str) -> Feature:
    """The edit's transform for this teacher. ConfigError where the shapes of the features differ in more than their channels."""
    assert isinstance(edit.transform, Feature)
    name = _node(of_teacher, edit.transform.teacher, f"{path}.teacher")
    try:
        mine, other = (g.shape_of(Site(node, "output")) for g, node in ((graph, edit.site.node), (of_teacher, name)))
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]} is no tensor that can be compared") from None
    axis = _channel_axis(graph, len(mine))
    channels = None
    if len(mine) != len(other) or any(mine[a] != other[a] for a in range(1, len(mine)) if a != axis):
        raise ConfigError(
            f"{path}: {edit.site.node} has shape {mine}, {name} of the teacher {other}: "
            f"expected shapes that differ in axis {axis}, the channels, only"
        )
    if pair.loss == "mse" and mine[axis] != other[axis]:
        channels = other[axis]
    return edit.transform.model_copy(update={"teacher": name, "axis": axis, "channels": channels})


def _channel_axis(graph: Graph, rank: int) -> int:
    """1 in tensors like those that the graph's convolutions give, where these have their channels first; else the last axis."""
    weights = [(node, node.parameter("weight")) for node in graph.nodes if node.op in ("Conv", "ConvTranspose")]
    first = any(w is not None and len(w.shape) == rank and not is_channels_last(n) for n, w in weights)
    return 1 if first else rank - 1
