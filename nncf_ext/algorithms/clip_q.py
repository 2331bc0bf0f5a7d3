"""CLIP-Q: pruning and quantization in one step, learned in parallel (Tung & Mori 2018).

The code books are made anew in every forward, of the weights as they are: a weight that is zero in one may be alive in the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics, numpy_xp
from nncf_ext.algorithm import Algorithm, CompressionStage, PlanningContext, PlanSummary, Remembered, State, Training
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.calibration.trials import scorer, search
from nncf_ext.config.clip_q import ClipQConfig, ClipQLayer
from nncf_ext.edits import SHARE, Edit, Plan, Range, Transform, Var
from nncf_ext.graph import Graph, Node, Parameter
from nncf_ext.ops import has_weight
from nncf_ext.report import progress
from nncf_ext.schedules import Clock
from nncf_ext.scopes import considered, matched_by, matches
from nncf_ext.sparsity.selection import smallest_left

FLOAT_BITS = 32
SEARCHED = {"pruning": [step / 20 for step in range(20)], "bits": [2, 3, 4, 5, 6, 7, 8]}


class ClipQ(Transform):
    """The mean of its interval for every weight but the smallest, which are zero; the gradient passes unchanged (sec. 3.1).

    Of the n positive weights the smallest floor(pruning * n) are zero, and the others lie in intervals of equal width, from the
    smallest of them to the largest; so do the negative ones. There are 2^bits - 1 intervals, which the signs share in proportion
    to their ranges; one with weights has one at least. Weights that come as zero stay zero and do not count. `begun` is false as
    long as the weight passes as it comes.
    """

    kind: Literal["clip_q"] = "clip_q"
    stage: ClassVar[int] = SHARE
    pruning: float
    bits: int

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"begun": Var(np.ones((), bool))}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        flat = xp.reshape(xp.stop_gradient(x), (-1,))
        compressed = xp.cast_like(xp.reshape(self._compressed(xp, flat), tuple(x.shape)), x)
        return numerics.straight_through(xp, xp.where(variables["begun"], compressed, x), x)

    def _compressed(self, xp: Any, flat: Any) -> Any:
        bits = xp.float_bits(flat)
        w = xp.float_from_bits(bits)
        low, number = smallest_left(xp, bits, self.pruning)
        high = xp.stack([-xp.min(w), xp.max(w)])
        span = xp.where(number > 0, high - low, xp.zeros_like(high))
        intervals = self._intervals(xp, span, number)
        width = span / xp.maximum(intervals, 1)
        width = xp.where(width > 0, width, xp.ones_like(width))
        last = xp.cast_like(intervals, bits)
        # codes: 0 for zero, then the intervals of the negative weights by size, then those of the positive ones
        by_sign = [
            xp.cast_like(size >= low[sign], bits)
            * (xp.cast_like(xp.clip((size - low[sign]) / width[sign], 0.0, intervals[sign] - 1), bits) + 1 + sign * last[0])
            for sign, size in enumerate((-w, w))
        ]
        code = by_sign[0] + by_sign[1]
        sums = xp.segment_sum(w, code, 2**self.bits)
        counts = xp.segment_sum(xp.ones_like(code), code, 2**self.bits)
        means = sums / xp.cast_like(xp.maximum(counts, 1), sums)
        return xp.take(xp.concatenate([xp.zeros_like(means[:1]), means[1:]]), code, axis=0)

    def _intervals(self, xp: Any, span: Any, number: Any) -> Any:
        """Of each sign, as floats."""
        levels = 2**self.bits - 1
        there = xp.cast_like(number > 0, span)
        whole = xp.sum(span)
        share = xp.where(whole > 0, span[1] / xp.where(whole > 0, whole, xp.ones_like(whole)), 0.5 * xp.ones_like(whole))
        positive = there[1] * xp.clip(xp.round(levels * share), 1.0, levels - 1.0)
        positive = xp.where(there[0] > 0, positive, there[1] * levels)
        return xp.stack([there[0] * (levels - positive), positive])


@dataclass(frozen=True)
class ClippedLayer:
    """sparsity: share of zeros. values: distinct ones other than zero."""

    name: str
    pruning: float
    bits: int
    sparsity: float
    values: int


@dataclass(frozen=True)
class ClipQStatistics:
    """saved: share of the bits of all these weights that codes for those other than zero save, see the search's `trade_off`.
    Nothing is said of layers before they are compressed."""

    begun: bool
    weights: int
    saved: float
    layers: tuple[ClippedLayer, ...]


class ClipQState(Remembered):
    begun: bool


class ClipQCompression(ClipQConfig, Algorithm):
    family: ClassVar[str] = "shared weights"
    remembers: ClassVar[type[Remembered]] = ClipQState
    transforms: ClassVar[tuple[type[Transform], ...]] = (ClipQ,)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        names = [n.name for n in graph.nodes if has_weight(n) and considered(n.name, self.ignored_scopes, self.target_scopes)]
        for scope in self.params.by_scope:
            matched_by(scope, names, self.path("params.by_scope"), self.validate_scopes, "compressed layer")

        def transform(node: Node, weight: Parameter) -> ClipQ:
            own = self._own(node.name)
            return ClipQ(pruning=own.pruning, bits=own.bits) if own else ClipQ(pruning=self.params.pruning, bits=self.params.bits)

        return plan_weights(graph, self, self.algorithm, transform)

    def refine(self, plan: Plan, context: PlanningContext) -> Plan:
        """The plan with the numbers that the search finds."""
        settings = self.initializer.search
        if settings is None:
            return plan
        json_path = self.path("initializer.search")
        score = scorer(context, settings.eval_subset_ratio, json_path, "the search")
        edits = plan.of(self.algorithm)
        found = {edit.key: edit for edit in edits if self._own(edit.site.node)}
        wanted = [edit for edit in edits if edit.key not in found]
        start = {key: _nearest(getattr(self.params, key), options) for key, options in SEARCHED.items()}
        for edit in wanted:
            tried: dict[tuple[float, int], float] = {}

            def reward(proposed: Mapping[str, Any], edit: Edit = edit, tried: dict[tuple[float, int], float] = tried) -> float:
                choice = proposed["pruning"], proposed["bits"]
                if choice not in tried:
                    compressed = {**found, edit.key: _with(edit, *choice)}
                    with context.trial(_only(plan, self.algorithm, compressed)) as model:
                        tried[choice] = score(model) + settings.trade_off * _saved(*choice)
                return tried[choice]

            rounds = progress(range(settings.trials), settings.trials, f"models tried for {edit.site.label}", lambda _: 1)
            search(reward, SEARCHED, start, rounds, settings.warmup_trials)
            found[edit.key] = _with(edit, *max(tried, key=lambda choice: tried[choice]))
        return _only(plan, self.algorithm, found)

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        at, searched = {}, 0
        for edit in edits:
            transform = _transform(edit)
            description = f"{transform.pruning:.0%} zeros, {transform.bits} bits: {2**transform.bits} shared values"
            if self.initializer.search is not None and self._own(edit.site.node) is None:
                description, searched = "zeros and bits by search", searched + 1
            at.update(dict.fromkeys(edit.sites, f"clip_q: {description}"))
        return PlanSummary(at, by_data=(f"zeros and bits of {searched} weights, by search",) if searched else ())

    def start(self) -> State:
        return {"begun": False}

    def initialize(self, training: Training, state: State) -> State:
        return self._begin(training, self.params.start_epoch == 0)

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        return self._begin(training, True) if clock.epoch >= self.params.start_epoch and not state["begun"] else state

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        return CompressionStage.FULLY_COMPRESSED if state["begun"] else CompressionStage.UNCOMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        return () if state["begun"] else ("epoch_step",)

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if state["begun"] or not training.edits:
            return None
        return f"found it not begun, expected from epoch {self.params.start_epoch} on"

    def report(self, training: Training, clock: Clock, state: State) -> ClipQStatistics:
        layers, kept, size = [], 0, 0
        for edit in training.edits if state["begun"] else ():
            transform = _transform(edit)
            values = transform.apply(numpy_xp, training.weight_after_earlier_edits(edit.site), {"begun": np.True_}, False)
            nonzero = values[values != 0]
            share = 1 - nonzero.size / max(values.size, 1)
            layers.append(ClippedLayer(edit.site.label, transform.pruning, transform.bits, share, int(np.unique(nonzero).size)))
            kept, size = kept + nonzero.size * transform.bits, size + values.size
        return ClipQStatistics(state["begun"], size, 1 - kept / (FLOAT_BITS * size) if size else 0.0, tuple(layers))

    def _begin(self, training: Training, begun: bool) -> State:
        for edit in training.edits:
            training.attached.assign(edit, "begun", np.bool_(begun))
        return {"begun": begun}

    def _own(self, node: str) -> ClipQLayer | None:
        """What `by_scope` says of a layer."""
        return next((own for scope, own in reversed([*self.params.by_scope.items()]) if matches(node, [scope])), None)


def _saved(pruning: float, bits: int) -> float:
    """Share of the bits of a layer's weights."""
    return 1 - (1 - pruning) * bits / FLOAT_BITS


def _nearest(wanted: float, options: Sequence[float]) -> float:
    return min(options, key=lambda option: abs(option - wanted))


def _transform(edit: Edit) -> ClipQ:
    assert isinstance(edit.transform, ClipQ)
    return edit.transform


def _with(edit: Edit, pruning: float, bits: int) -> Edit:
    return replace(edit, transform=ClipQ(pruning=pruning, bits=bits))


def _only(plan: Plan, algorithm: str, edits: Mapping[str, Edit]) -> Plan:
    """The plan with these edits, by key, in place of all that the algorithm has in it."""
    return replace(
        plan, edits=tuple(edits.get(edit.key, edit) for edit in plan if edit.algorithm != algorithm or edit.key in edits)
    )
