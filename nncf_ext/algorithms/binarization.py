"""Binarization of convolutions (NNCF up to 2.8): XNOR-Net's and DoReFa-Net's weights, activations with a learned threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.algorithm import PlanSummary, State, Training
from nncf_ext.algorithms.staged_quantizers import StagedQuantizers
from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.config.binarization import BinarizationConfig
from nncf_ext.config.initialization import RangeInit
from nncf_ext.config.quantization import ScopeOverrides
from nncf_ext.edits import QUANTIZE, Edit, Observer, ObserverSpec, Plan, Range, Transform, Var
from nncf_ext.graph import Graph, Site
from nncf_ext.ops import has_weight, is_channels_last
from nncf_ext.quantization.settings import range_inits
from nncf_ext.schedules import Clock
from nncf_ext.scopes import considered, select


class BinaryWeight(Transform):
    """w -> +-scale, + where w > 0, with scale the mean of |w|; the gradient passes unchanged.

    channel_axis: a scale per index along it (Rastegari et al. 2016, eq. 6); None: one scale (Zhou et al. 2016, eq. 7).
    """

    kind: Literal["binary_weight"] = "binary_weight"
    stage: ClassVar[int] = QUANTIZE
    channel_axis: int | None = None

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        channel_axis = None if self.channel_axis is None else self.channel_axis % len(x.shape)
        scale = xp.mean(xp.abs(x), axis=tuple(a for a in range(len(x.shape)) if a != channel_axis), keepdims=True)
        return numerics.straight_through(xp, xp.where(x > 0, scale, -scale), x)


class BinaryActivation(Transform):
    """x -> scale where x > threshold * scale, else 0, with learned scale > 0 and, per channel, 0 < threshold < 1.

    threshold_axis: axis of the channels. Variables: `log_scale` (one), `logit` of the thresholds. Gradients are NNCF 2.x's: with
    y the output and I = [0 <= x <= scale],  dx = I,  dscale = sum of (y - x) / scale where x <= scale, of 1 above it,
    dthreshold = -sum of [0 < x < scale] over all axes but the channels'.
    """

    kind: Literal["binary_activation"] = "binary_activation"
    stage: ClassVar[int] = QUANTIZE
    threshold_axis: int

    def observer(self, spec: ObserverSpec) -> Observer | None:
        """One range for the tensor, of which the upper end counts."""
        return RangeCollector(spec, None, False)

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        ones = (1,) * len(shape)
        high = np.float32(1) if seen is None else np.maximum(np.asarray(seen.high, np.float32).reshape(()), np.float32(1e-6))
        channels = tuple(size if axis == self.threshold_axis else 1 for axis, size in enumerate(shape))
        return self, {
            "log_scale": Var(np.full(ones, np.log(high), np.float32), trainable=True),
            "logit": Var(np.zeros(channels, np.float32), trainable=True),
        }

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        scale, threshold = xp.exp(variables["log_scale"]), xp.sigmoid(variables["logit"])
        x0, scale0, threshold0 = (xp.stop_gradient(a) for a in (x, scale, threshold))
        zeros, below = xp.zeros_like(x0), x0 <= scale0
        y = xp.where(x0 > threshold0 * scale0, scale0, zeros)
        by_scale = xp.where(below, (y - x0) / scale0, xp.ones_like(x0))
        between = xp.cast_like((x0 > 0) & (x0 < scale0), x0)
        inside = xp.where((x0 >= 0) & below, x, zeros)
        return numerics.straight_through(xp, y, inside + scale * by_scale - threshold * between)


@dataclass(frozen=True)
class BinarizationStatistics:
    """Convolutions and weights that are binarized, and all weights of the model."""

    layers_binarized: int
    weights_binarized: int
    weights_total: int


class Binarization(BinarizationConfig, StagedQuantizers):
    family: ClassVar[str] = "quantization"
    transforms: ClassVar[tuple[type[Transform], ...]] = (BinaryWeight, BinaryActivation)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        select([node.name for node in graph.nodes], self.ignored_scopes, self.target_scopes, self.validate_scopes, self.path())
        weights: dict[str, list[Site]] = {}
        edits, skipped = [], []
        for node in graph.nodes:
            if not has_weight(node):
                continue
            weight = node.parameter("weight")
            activation = Site(node.name, "input:0")
            if not considered(node.name, self.ignored_scopes, self.target_scopes):
                skipped.append((node.name, "outside the scopes of binarization"))
            elif node.op != "Conv" or weight is None or len(weight.shape) != 4:
                skipped.append((node.name, f"{node.op}: only two-dimensional convolutions are binarized"))
            else:
                weights.setdefault(weight.name, []).append(Site(node.name, "weight"))
                axis = 3 if is_channels_last(node) else 1
                edits.append(Edit((activation,), BinaryActivation(threshold_axis=axis), self.algorithm))
        for sites in weights.values():
            parameter = graph[sites[0].node].parameter("weight")
            assert parameter is not None
            axis = (parameter.channel_axis or 0) if self.mode == "xnor" else None
            edits.append(Edit(tuple(sites), BinaryWeight(channel_axis=axis), self.algorithm))
        return Plan(tuple(edits), tuple(skipped))

    def range_inits(self, graph: Graph, edits: Sequence[Edit]) -> Mapping[str, RangeInit]:
        activations = {edit.key: edit for edit in edits if edit.needs_range}
        return range_inits(activations, graph, self.initializer.range, ScopeOverrides(), self.path(), self.validate_scopes)

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        weight = f"1 bit ({self.mode}), scale per {'channel' if self.mode == 'xnor' else 'tensor'}"
        activation = "1 bit, learned threshold per channel"
        at = {site: weight if site.is_parameter else activation for edit in edits for site in edit.sites}
        ways = Counter((start.type, start.amount) for start in self.range_inits(graph, edits).values())
        by_data = tuple(f"scales of {n} activations, {way} of {amount}" for (way, amount), n in ways.items() if amount)
        return PlanSummary(at, _statistics(graph, edits), by_data)

    def report(self, training: Training, clock: Clock, state: State) -> BinarizationStatistics:
        return _statistics(training.graph, training.edits)


def _statistics(graph: Graph, edits: Sequence[Edit]) -> BinarizationStatistics:
    sites = [site for edit in edits for site in edit.sites if site.is_parameter]
    return BinarizationStatistics(len(sites), graph.size_of(sites), sum(graph.sizes.values()))
