"""Sparsity by weights and the activations that they meet: |weight| times the norm of its input, compared within each output
(Wanda, Sun et al. 2023, arXiv:2306.11695), to a level that a schedule raises while the model trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext.algorithm import PlanSummary, State, Training
from nncf_ext.algorithms.sparsity import ScheduledSparsity, SparsityStatistics, sparsity_measures, summary_of_masks
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.calibration.initialization import QuantizationRangeInitArgs, running_on_data, samples_with_progress
from nncf_ext.config.sparsity import WandaSparsityConfig
from nncf_ext.edits import MASK, Edit, Plan, Range, Transform, Var
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph, Node, Parameter, Site
from nncf_ext.ops import is_channels_last, output_axes, weight_port, why_inputs_differ
from nncf_ext.schedules import Clock
from nncf_ext.sparsity.selection import descending_ranks

_WHAT = "wanda_sparsity"


class WandaMask(Transform):
    """x * mask. Variables: `mask`, and `norm`, the L2 norm of each input over the samples that were run: (inputs,).

    input_axis, output_axis: of the weight.
    """

    kind: Literal["wanda_mask"] = "wanda_mask"
    stage: ClassVar[int] = MASK
    input_axis: int
    output_axis: int

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {"mask": Var(np.ones(shape, bool)), "norm": Var(np.ones(shape[self.input_axis], np.float32))}

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x * xp.cast_like(variables["mask"], x)

    def mask_at(self, xp: Any, weight: Any, norm: Any, level: float) -> Any:
        """True for what stays: in every output all but round(level * n) of its n weights; of equal ones the first."""
        shape = [1] * len(weight.shape)
        shape[self.input_axis] = -1
        score = xp.moveaxis(xp.abs(weight) * xp.reshape(norm, tuple(shape)), self.output_axis, 0)
        rows = xp.reshape(score, (int(score.shape[0]), -1))
        kept = int(rows.shape[1]) - round(level * int(rows.shape[1]))
        keep = xp.reshape(descending_ranks(xp, rows) < kept, tuple(score.shape))
        return xp.moveaxis(keep, 0, self.output_axis)


@dataclass(frozen=True)
class WandaSparsityStatistics(SparsityStatistics):
    target_sparsity_level: float


class WandaSparsity(WandaSparsityConfig, ScheduledSparsity):
    transforms: ClassVar[tuple[type[Transform], ...]] = (WandaMask,)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        return plan_weights(graph, self, self.algorithm, _mask, lambda node, weight: _why_not(graph, node, weight))

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        description = f"wanda mask, to {self.target:.0%} zeros in every output"
        return summary_of_masks(graph, edits, lambda _: description, self.target)

    def masks(self, training: Training) -> list[np.ndarray]:
        return [training.variable(edit, "mask") for edit in training.edits]

    def initialize(self, training: Training, state: State) -> State:
        self._measure(training)
        return super().initialize(training, state)

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        if not state["frozen"]:
            self._measure(training)
        return super().epoch_step(training, clock, state)

    def follow(self, training: Training, state: State) -> None:
        xp, attached = training.xp, training.attached
        for edit, level in zip(training.edits, self.levels(training, state), strict=True):
            weight = xp.stop_gradient(attached.parameter(edit.site))
            norm = xp.cast_like(attached.variables(edit)["norm"], weight)
            attached.assign(edit, "mask", _of(edit).mask_at(xp, weight, norm, level))

    def report(self, training: Training, clock: Clock, state: State) -> WandaSparsityStatistics:
        return WandaSparsityStatistics(**sparsity_measures(training, self.masks(training)), target_sparsity_level=state["level"])

    def _measure(self, training: Training) -> None:
        """The norms of what the layers read, as the model is now. ConfigError where no data are registered, or not finite."""
        data = training.extra(QuantizationRangeInitArgs)
        if data is None:
            raise ConfigError(f"{self.path()}: found no data to measure inputs with, expected register_default_init_args before")
        readers = {Site(site.node, "input:0"): edit for edit in training.edits for site in edit.sites}
        squares = {edit.key: np.zeros(_inputs(training.graph, edit), np.float64) for edit in training.edits}

        def squared(site: Site) -> Callable[[Any], np.ndarray]:
            return lambda x: _square_sums(training.adapter.to_numpy(x), _axis_read(training.graph[site.node]))

        run = training.adapter.inference(
            training.attached.model, training.attached.traced, {site: squared(site) for site in readers}, ()
        )
        with running_on_data(_WHAT, data.batches):
            for batch in samples_with_progress(training.adapter, data.batches, self.params.num_samples, _WHAT):
                for site, sums in run(batch)[1].items():
                    squares[readers[site].key] += sums
        for edit in training.edits:
            norm = training.adapter.broadcast_from_rank0(np.sqrt(squares[edit.key]).astype(np.float32))
            if not np.isfinite(norm).all():
                raise ConfigError(f"{self.path()}: {edit.site.node} saw NaN or infinite values, expected numbers")
            training.attached.assign(edit, "norm", norm)


def _square_sums(x: np.ndarray, axis: int) -> np.ndarray:
    values = np.moveaxis(x.astype(np.float64), axis, -1)
    return np.square(values.reshape(-1, values.shape[-1])).sum(0)


def _of(edit: Edit) -> WandaMask:
    assert isinstance(edit.transform, WandaMask)
    return edit.transform


def _mask(node: Node, weight: Parameter) -> WandaMask:
    (output,) = output_axes(node)
    inputs = weight.input_axis if node.op == "Conv" else next(a for a in range(len(weight.shape)) if a != output)
    assert inputs is not None
    return WandaMask(input_axis=inputs, output_axis=output)


def _inputs(graph: Graph, edit: Edit) -> int:
    return graph.shape_of(edit.site)[_of(edit).input_axis]


def _axis_read(node: Node) -> int:
    """Of the inputs, in what the layer reads."""
    return 1 if node.op == "Conv" and not is_channels_last(node) else -1


def _why_not(graph: Graph, node: Node, weight: Parameter) -> str | None:
    """Why it is not known which of a layer's inputs each weight multiplies."""
    if node.op == "Conv":
        return why_inputs_differ(graph, node, weight)
    if node.op not in ("Gemm", "MatMul") or weight.slot != "weight":
        return f"{node.op}: wanda_sparsity is for linear layers and convolutions"
    if weight_port(node) != 1:
        return "its weight is the left factor of the product"
    if len(weight.shape) != 2:
        return f"its weight has {len(weight.shape)} axes, expected outputs and inputs"
    return None
