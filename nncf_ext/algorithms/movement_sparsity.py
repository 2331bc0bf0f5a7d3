"""Movement sparsity: weights, blocks, rows or columns of linear layers learn whether they are needed (Sanh et al. 2020; in
blocks: Lagunas et al. 2021; NNCF 2.x), and attention heads and channels of which nothing is left can be removed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext import numpy_xp as host
from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training
from nncf_ext.algorithms.sparsity import LayerSparsity, summary_of_masks
from nncf_ext.channels.groups import ChannelGroup, Member, channel_groups
from nncf_ext.config.movement_sparsity import MovementSparsityConfig, SparseStructure
from nncf_ext.edits import MASK, Edit, Plan, Range, Removal, Transform, Var
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import Unreadable
from nncf_ext.files.schema import Count, Finite, NotNegative
from nncf_ext.graph import Graph, Node, Parameter, Site
from nncf_ext.ops import weights
from nncf_ext.schedules import Clock, polynomial
from nncf_ext.scopes import considered, select
from nncf_ext.sparsity.weight_matrix import WeightMatrix, weight_matrix

_LOWEST = float(np.finfo(np.float32).min)  # a threshold that every score passes
_CAP = 0.98  # no threshold is above this quantile of a tensor's scores
_FIRST_SHARE = 0.001  # of the weights is pruned at the start of the warm-up, where the config gives no threshold
_LOSS_OF_A_LAYER = 0.5


class MovementMask(Transform):
    """x * mask with mask = 1[score > threshold], one score for every block.

    The mask's gradient reaches the scores as it is (straight through): dscore = sum over its block of dy * x, so that scores of
    weights that move away from zero rise (Sanh et al. 2020, eq. 4).

    shape: that of the parameter with the axes of its outputs made one, and those of its inputs; the order is the parameter's.
    block: cells of a block along those two (a bias: one) axes; divides `shape`.

    Variables: `score`, of shape / block; `mask`, multiplied with too, ones until the mask is frozen; `schedule`, three numbers:
    threshold, factor of the scores' loss, factor of the scores' gradient (0: frozen).
    """

    kind: Literal["movement_mask"] = "movement_mask"
    stage: ClassVar[int] = MASK

    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks along each axis: the shape of the scores."""
        return tuple(size // cells for size, cells in zip(self.shape, self.block, strict=True))

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {
            "score": Var(np.zeros(self.blocks, np.float32), trainable=True),
            "mask": Var(np.ones(shape, bool)),
            "schedule": Var(np.array([_LOWEST, 0, 1], np.float32)),
        }

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        threshold, _, trained = (variables["schedule"][i] for i in range(3))
        score = variables["score"]
        above = xp.maximum(xp.sign(score - threshold), 0)  # 1[score > threshold]; comparing and selecting is slow on CPUs
        kept = xp.cast_like(numerics.straight_through(xp, above, score * trained), x)
        return xp.reshape(self._by_block(xp, x * xp.cast_like(variables["mask"], x), kept), tuple(x.shape))

    def _by_block(self, xp: Any, x: Any, kept: Any) -> Any:
        """`x` times `kept` of its block: the small `kept` is repeated along the last axis, the large product runs over three."""
        last, cells, rest = self.shape[-1], self.block[-1], self.block[:-1]
        if cells > 1:
            kept = xp.reshape(kept, (-1, last // cells, 1)) * xp.ones_like(xp.reshape(x, (-1,))[:cells])
        return xp.reshape(x, (-1, *(rest or (1,)), last)) * xp.reshape(kept, (-1, 1, last))

    def describe(self, variables: Mapping[str, np.ndarray], x: np.ndarray | None) -> str:
        threshold, _, trained = variables["schedule"]
        state = f"scores above {threshold:.4g} stay" if trained else "frozen"
        return f"{self._zeros(variables, np.ones_like(variables['mask'], np.float32) if x is None else x)}, {state}"

    def mask(self, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the parameter is multiplied with now, in its shape, as booleans."""
        return self.apply(host, np.ones_like(variables["mask"], np.float32), variables, False) > 0

    def of_blocks(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """`kept`, one element for every block, for every cell of the parameter."""
        for axis, cells in enumerate(self.block):
            kept = np.repeat(kept, cells, axis)
        return kept.reshape(shape)


@dataclass(frozen=True)
class StructuredGroup:
    """Heads or channels that structured masking decided on together."""

    name: str
    units: int
    kept: int


@dataclass(frozen=True)
class MovementSparsityStatistics:
    """Levels are shares of zeros. `sparsity_level` counts all parameters of the layers known to the graph."""

    sparsity_level: float
    sparsity_level_for_layers: float
    importance_threshold: float
    importance_regularization_factor: float
    layers: tuple[LayerSparsity, ...]
    structured: tuple[StructuredGroup, ...]

    @property
    def model_statistics(self) -> MovementSparsityStatistics:
        return self

    @property
    def sparsified_layers_summary(self) -> tuple[LayerSparsity, ...]:
        return self.layers

    @property
    def tensorboard_scalars(self) -> dict[str, float]:
        """NNCF 2.x's names for what is logged."""
        return {"model_sparsity": self.sparsity_level, "linear_layer_sparsity": self.sparsity_level_for_layers}


class MovementState(Remembered):
    """kept: by group, the units that structured masking left."""

    init_threshold: Finite | None
    passed: NotNegative
    frozen: bool
    kept: dict[str, list[Count]]


class MovementSparsity(MovementSparsityConfig, Algorithm):
    remembers: ClassVar[type[Remembered]] = MovementState
    family: ClassVar[str] = "sparsity"
    transforms: ClassVar[tuple[type[Transform], ...]] = (MovementMask,)

    @property
    def needs_copy(self) -> bool:
        return self.params.enable_structured_masking

    def plan(self, graph: Graph, target_device: str) -> Plan:
        names = [node.name for node in graph.nodes]
        select(names, self.ignored_scopes, self.target_scopes, self.validate_scopes, self.path())
        structures = self._structures(names)
        nodes: dict[str, list[Node]] = {}
        skipped: list[tuple[str, str]] = []
        for node in graph.nodes:
            if not weights(node):
                continue
            weight = weights(node)[0]
            if not considered(node.name, self.ignored_scopes, self.target_scopes):
                skipped.append((node.name, "outside the scopes of movement_sparsity"))
            elif (why := _why_not(graph, node, weight)) is not None:
                skipped.append((node.name, why))
            else:
                nodes.setdefault(weight.name, []).append(node)
        if not nodes:
            raise ConfigError(f"{self.path()}: found no linear layer to sparsify in the model, expected one at least")
        edits: list[Edit] = []
        for sharing in nodes.values():
            edits += self._edits(sharing, structures)
        if self.params.enable_structured_masking:
            skipped += self._unstructured(graph, edits)
        return Plan(tuple(edits), tuple(skipped))

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        def description(edit: Edit) -> str:
            block = _transform(edit).block
            cells = "single weights" if math.prod(block) == 1 else f"blocks of {' x '.join(map(str, block))}"
            return f"movement mask, {cells}"

        return summary_of_masks(graph, edits, description, None)

    def start(self) -> State:
        return {"init_threshold": self.params.init_importance_threshold, "passed": 0.0, "frozen": False, "kept": {}}

    def check_state(self, training: Training, state: State) -> None:
        super().check_state(training, state)
        sizes = {group.name: group.size for group in self._groups(training.graph, training.edits)[0]} if state["kept"] else {}
        if set(state["kept"]) != set(sizes):
            odd = min(set(state["kept"]) ^ set(sizes))
            raise Unreadable(f"kept: expected the units of each group of the model, {odd[:200]!r} is in one of them only")
        for name, units in state["kept"].items():
            if any(unit >= sizes[name] for unit in units):
                raise Unreadable(f"kept: {name} has {sizes[name]} units, found number {max(units)}")

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        if state["frozen"] or clock.epoch < self.params.warmup_end_epoch:
            return state
        return self._finish(training, state)

    def step(self, training: Training, clock: Clock, state: State) -> State:
        """Thresholds and factor of the step that begins; scores do not change before its forward has used them."""
        passed = self._passed(clock)
        if state["frozen"] or passed < self.params.warmup_start_epoch:
            return state
        if passed >= self.params.warmup_end_epoch:
            return self._finish(training, state)
        first = state["init_threshold"]
        if first is None:
            first = lowest_threshold(self._scores(training), _FIRST_SHARE)
        threshold, factor = self.scheduled(passed, first)
        self._schedule(training, threshold, factor)
        return {**state, "init_threshold": first, "passed": passed}

    def loss(self, training: Training, state: State) -> Any:
        """Mean over the layers of factor * 0.5 * (mean(sigmoid(weight's scores)) * cells of a block + the same of the bias)."""
        if state["frozen"] or not training.edits:
            return None
        xp, layers = training.xp, sum(edit.site.slot == "weight" for edit in training.edits)
        total = None
        for edit in training.edits:
            variables = training.variables(edit)
            cells = math.prod(_transform(edit).block)
            term = variables["schedule"][1] * xp.mean(xp.sigmoid(variables["score"])) * (_LOSS_OF_A_LAYER * cells / layers)
            total = term if total is None else total + term
        return total

    def compression_rate(self, training: Training, state: State) -> float:
        masks = self._masks(training).values()
        return 1 - sum(int(mask.sum()) for mask in masks) / max(sum(mask.size for mask in masks), 1)

    def set_compression_rate(self, training: Training, state: State, rate: float) -> State:
        """Prune the blocks with the lowest scores, `rate` of all sparsified parameters, and freeze."""
        masks = masks_at_rate([(score, _transform(edit)) for edit, score in self._scored(training)], rate)
        shapes = [training.graph.shape_of(edit.site) for edit in training.edits]
        for edit, mask, shape in zip(training.edits, masks, shapes, strict=True):
            self._freeze(training, edit, _transform(edit).of_blocks(mask, shape))
        return {**state, "frozen": True, "kept": {}}

    def freeze(self, training: Training, state: State, frozen: bool) -> State:
        if frozen and not state["frozen"]:
            for edit, mask in self._masks(training).items():
                self._freeze(training, edit, mask)
        elif state["frozen"] and not frozen:
            for edit in training.edits:
                training.attached.assign(edit, "mask", np.ones(training.graph.shape_of(edit.site), bool))
            self._schedule(training, *self.scheduled(state["passed"], state["init_threshold"]))
        return {**state, "frozen": frozen, "kept": state["kept"] if frozen else {}}

    def removals(self, training: Training, state: State) -> tuple[Removal, ...]:
        """Of every group, the units that structured masking left; one, fully masked, where it left none."""
        dropped: dict[tuple[Site, int], np.ndarray] = {}
        for group in self._groups(training.graph, training.edits)[0] if state["kept"] else ():
            kept = state["kept"][group.name] or [0]
            for member in group.members:
                units = np.array(member.units)
                gone = (units >= 0) & ~np.isin(units, kept)
                at = member.site, member.axis
                dropped[at] = dropped[at] | gone if at in dropped else gone
        return tuple(
            Removal(site, axis, tuple(int(index) for index in np.flatnonzero(~gone)))
            for (site, axis), gone in dropped.items()
            if gone.any()
        )

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        if clock.epoch < self.params.warmup_start_epoch:
            return CompressionStage.UNCOMPRESSED
        if clock.epoch < self.params.warmup_end_epoch:
            return CompressionStage.PARTIALLY_COMPRESSED
        return CompressionStage.FULLY_COMPRESSED

    def schedule(self, clock: Clock, state: State) -> Mapping[str, Any]:
        params = self.params
        threshold, factor = self.scheduled(self._passed(clock), state["init_threshold"])
        return {
            "current_importance_threshold": threshold,
            "current_importance_regularization_factor": factor,
            "init_importance_threshold": state["init_threshold"],
            "final_importance_threshold": params.final_importance_threshold,
            "warmup_start_epoch": params.warmup_start_epoch,
            "warmup_end_epoch": params.warmup_end_epoch,
        }

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        return () if state["frozen"] else ("epoch_step", "step")

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if state["frozen"] or not training.edits:
            return None
        end = self.params.warmup_end_epoch
        return f"found masks that are still learned, expected final ones, from warmup_end_epoch {end:g} on"

    def report(self, training: Training, clock: Clock, state: State) -> MovementSparsityStatistics:
        masks = self._masks(training)
        total = sum(mask.size for mask in masks.values())
        zeros = sum(mask.size - int(mask.sum()) for mask in masks.values())
        layers = tuple(
            LayerSparsity(str(edit.site), mask.shape, 1 - float(mask.mean()), mask.size / total) for edit, mask in masks.items()
        )
        groups = self._groups(training.graph, training.edits)[0] if state["kept"] else ()
        return MovementSparsityStatistics(
            zeros / max(sum(training.graph.sizes.values()), 1),
            zeros / max(total, 1),
            *self.scheduled(self._passed(clock), state["init_threshold"]),
            layers,
            tuple(StructuredGroup(group.name, group.size, len(state["kept"][group.name])) for group in groups),
        )

    def scheduled(self, passed: float, first: float | None) -> tuple[float, float]:
        """(importance threshold, regularization factor) after `passed` epochs; `first` is the threshold at the start."""
        params = self.params
        if passed < params.warmup_start_epoch:
            return -math.inf, 0.0
        length = params.warmup_end_epoch - params.warmup_start_epoch
        x = polynomial(0.0, 1.0, passed - params.warmup_start_epoch, length, params.power, concave=True)
        factor = x * params.importance_regularization_factor
        if passed >= params.warmup_end_epoch:
            return params.final_importance_threshold, factor
        return -math.inf if first is None else first + x * (params.final_importance_threshold - first), factor

    # Planning -------------------------------------------------------------------------------------------------------------

    def _structures(self, names: Sequence[str]) -> dict[str, tuple[str, SparseStructure]]:
        """For every node in an entry of `sparse_structure_by_scopes`: where the entry stands, and it."""
        found: dict[str, tuple[str, SparseStructure]] = {}
        for index, structure in enumerate(self.sparse_structure_by_scopes):
            json_path = self.path(f"sparse_structure_by_scopes[{index}]")
            for name in select(names, target=structure.target_scopes, validate=self.validate_scopes, json_path=json_path):
                if name in found:
                    raise ConfigError(f"{json_path}.target_scopes: {name} is in {found[name][0]} too, expected in one entry")
                found[name] = json_path, structure
        return found

    def _edits(self, nodes: Sequence[Node], structures: Mapping[str, tuple[str, SparseStructure]]) -> Iterable[Edit]:
        """The weight's edit and the bias's, of nodes that share them."""
        entries = dict(structures[node.name] for node in nodes if node.name in structures)
        if len(entries) > 1:
            raise ConfigError(f"{' and '.join(entries)}: found both for {nodes[0].name}, whose weight is shared, expected one")
        entry = next(iter(entries.items()), None)
        weight, bias = nodes[0].parameter("weight"), nodes[0].parameter("bias")
        assert weight is not None
        layout = weight_matrix(nodes[0], weight)
        assert isinstance(layout, WeightMatrix)
        rows, columns = _block(nodes[0].name, layout, entry)
        block = (rows, columns) if layout.outputs_first else (columns, rows)
        yield Edit(tuple(Site(n.name, "weight") for n in nodes), MovementMask(shape=layout.shape, block=block), self.algorithm)
        if bias is not None and math.prod(bias.shape) == layout.outputs:
            sites = tuple(Site(n.name, "bias") for n in nodes)
            yield Edit(sites, MovementMask(shape=(layout.outputs,), block=(rows,)), self.algorithm)

    def _groups(self, graph: Graph, edits: Sequence[Edit]) -> tuple[list[ChannelGroup], dict[str, str]]:
        """The groups that structured masking decides on, and for nodes in others why it does not decide on those."""
        masked = {site: _transform(edit) for edit in edits for site in edit.sites}
        usable, reasons = [], {}
        for group in channel_groups(graph):
            weights = [member for member in group.members if member.role != "follower"]
            why = group.blocked or next(filter(None, (_obstacle(graph, masked, member) for member in weights)), None)
            if why is None:
                usable.append(group)
                continue
            for member in weights:
                reasons.setdefault(member.site.node, why)
        return usable, reasons

    def _unstructured(self, graph: Graph, edits: Sequence[Edit]) -> Iterable[tuple[str, str]]:
        """Layers with the reason why no head or channel of them can go. ConfigError where that is so of all."""
        usable, reasons = self._groups(graph, edits)
        grouped = {member.site.node for group in usable for member in group.members}
        left = [edit.site.node for edit in edits if edit.site.slot == "weight" and edit.site.node not in grouped]
        unknown = "it shares no channels with another layer"
        if not usable:
            raise ConfigError(
                f"{self.path('params.enable_structured_masking')}: found true, expected false for this model, in which no heads "
                f"or channels can be removed: {left[0]}: {reasons.get(left[0], unknown)}"
            )
        return [(name, f"sparsified, but not by heads or channels: {reasons.get(name, unknown)}") for name in left]

    # Training -------------------------------------------------------------------------------------------------------------

    def _passed(self, clock: Clock) -> float:
        return clock.progress(self.params.steps_per_epoch or clock.steps_per_epoch)

    def _scored(self, training: Training) -> list[tuple[Edit, np.ndarray]]:
        return [(edit, training.variable(edit, "score")) for edit in training.edits]

    def _scores(self, training: Training) -> list[tuple[np.ndarray, int]]:
        return [(score, math.prod(_transform(edit).block)) for edit, score in self._scored(training)]

    def _masks(self, training: Training) -> dict[Edit, np.ndarray]:
        return {
            edit: _transform(edit).mask({name: training.variable(edit, name) for name in ("score", "mask", "schedule")})
            for edit in training.edits
        }

    @staticmethod
    def _schedule(training: Training, threshold: float, factor: float) -> None:
        xp, attached = training.xp, training.attached
        for edit in training.edits:
            score = xp.stop_gradient(attached.variables(edit)["score"])
            own = capped(xp, score, max(threshold, _LOWEST), math.prod(_transform(edit).block))
            attached.assign(edit, "schedule", np.array([own, factor, 1], np.float32))

    @staticmethod
    def _freeze(training: Training, edit: Edit, mask: np.ndarray) -> None:
        training.attached.assign(edit, "mask", mask.astype(bool))
        training.attached.assign(edit, "schedule", np.array([_LOWEST, 0, 0], np.float32))

    def _finish(self, training: Training, state: State) -> State:
        """The masks of the final threshold, by heads and channels where those can be told, stay from here on."""
        self._schedule(training, self.params.final_importance_threshold, 0.0)
        masks, kept = self._masks(training), {}
        if self.params.enable_structured_masking:
            groups, _ = self._groups(training.graph, training.edits)
            masks, kept = structured(masks, groups)
        for edit, mask in masks.items():
            self._freeze(training, edit, mask)
        return {**state, "passed": float(self.params.warmup_end_epoch), "frozen": True, "kept": kept}


def _transform(edit: Edit) -> MovementMask:
    assert isinstance(edit.transform, MovementMask)
    return edit.transform


def _why_not(graph: Graph, node: Node, weight: Parameter) -> str | None:
    linear = ("Gemm", "MatMul")
    if node.op not in linear:
        return f"{node.op}: movement_sparsity is for linear layers"
    sharing = next((n for n in graph.owners_of[weight.name] if n.op not in linear), None)
    if sharing is not None:
        return f"its weight is shared with {sharing.name}, which is no linear layer"
    layout = weight_matrix(node, weight)
    return layout if isinstance(layout, str) else None


def _block(layer: str, layout: WeightMatrix, entry: tuple[str, SparseStructure] | None) -> tuple[int, int]:
    """Rows and columns (outputs and inputs) of a block of the layer's weight."""
    if entry is None or entry[1].mode == "fine":
        return 1, 1
    json_path, structure = entry
    if structure.mode == "per_dim":
        return (1, layout.inputs) if structure.axis == 0 else (layout.outputs, 1)
    assert structure.sparse_factors is not None
    rows, columns = structure.sparse_factors
    if layout.outputs % rows or layout.inputs % columns:
        raise ConfigError(
            f"{json_path}.sparse_factors: found [{rows}, {columns}], "
            f"expected divisors of [{layout.outputs}, {layout.inputs}], the "
            f"outputs and inputs of {layer}"
        )
    return rows, columns


def _obstacle(graph: Graph, masked: Mapping[Site, MovementMask], member: Member) -> str | None:
    """Why the mask at a member of a group does not tell the group's units apart."""
    transform = masked.get(member.site)
    if transform is None:
        return f"{member.site.node}, which shares its channels, is not sparsified"
    first = math.prod(graph.shape_of(member.site)[: member.axis + 1]) <= transform.shape[0]
    side = 0 if first else 1
    if transform.block[side] == transform.shape[side]:
        return f"a block of {member.site.node} has a part of every head or channel"
    return None


# Arithmetic ---------------------------------------------------------------------------------------------------------------


def capped(xp: Any, score: Any, threshold: float, cells: int) -> float:
    """`threshold`, or the 0.98-quantile (interpolated) of the scores of all cells where that is lower.

    cells: of a block, all of which have its score. One pass over the scores tells, in nearly all cases, that it is not lower.
    """
    score = xp.reshape(score, (-1,))
    blocks = int(score.shape[0])
    position = _CAP * (blocks * cells - 1)
    below, after = int(position) // cells, min((int(position) + 1) // cells, blocks - 1)
    threshold = float(np.float32(threshold))
    if int(xp.count_nonzero(score > threshold)) >= blocks - below:
        return threshold
    low, high = (float(xp.kth_smallest(score, k + 1)) for k in (below, after))
    return min(threshold, low + (position - int(position)) * (high - low))


def lowest_threshold(scores: Sequence[tuple[np.ndarray, int]], share: float) -> float | None:
    """The k-th lowest score with k = int(share * cells) + 1, where each score counts as many times as its block has cells.

    scores: (scores, cells of a block). None as long as all are equal: nothing is known then.
    """
    if min(float(score.min()) for score, _ in scores) == max(float(score.max()) for score, _ in scores):
        return None
    k = int(share * sum(score.size * cells for score, cells in scores)) + 1
    values, weights = [], []
    for score, cells in scores:
        enough = min(score.size, -(-k // cells))
        values.append(np.partition(score.ravel(), enough - 1)[:enough])
        weights.append(np.full(enough, cells))
    order = np.argsort(np.concatenate(values), kind="stable")
    passed = np.cumsum(np.concatenate(weights)[order])
    return float(np.concatenate(values)[order][np.searchsorted(passed, k)])


def masks_at_rate(scores: Sequence[tuple[np.ndarray, MovementMask]], rate: float) -> list[np.ndarray]:
    """Which blocks to keep so that the lowest-scored are pruned, as many as go into round(rate * cells). Ties in index order."""
    flat = np.concatenate([score.ravel() for score, _ in scores])
    cells = np.concatenate([np.full(score.size, math.prod(transform.block)) for score, transform in scores])
    order = np.argsort(flat, kind="stable")
    keep = np.ones(flat.size, bool)
    keep[order[: np.searchsorted(np.cumsum(cells[order]), round(rate * int(cells.sum())), side="right")]] = False
    ends = np.cumsum([score.size for score, _ in scores])[:-1]
    return [part.reshape(score.shape) for part, (score, _) in zip(np.split(keep, ends), scores, strict=True)]


def structured(
    masks: Mapping[Edit, np.ndarray], groups: Sequence[ChannelGroup]
) -> tuple[dict[Edit, np.ndarray], dict[str, list[int]]]:
    """Masks by whole heads and channels, and the kept units by group.

    A unit is kept where any cell of it survives in any member of its group: that is what can leave the model without a change.
    In members, kept units are restored as a whole; a tensor in two groups keeps what both keep. (NNCF 2.x.)
    """
    at = {site: edit for edit in masks for site in edit.sites}
    result, kept = dict(masks), {}
    units_of: dict[Edit, list[tuple[Member, np.ndarray]]] = {}
    for group in groups:
        alive = np.zeros(group.size, bool)
        members = [member for member in group.members if member.site in at]
        for member in members:
            mask = masks[at[member.site]]
            lines = np.any(mask, axis=tuple(axis for axis in range(mask.ndim) if axis != member.axis))
            alive[[unit for unit, line in zip(member.units, lines, strict=True) if line and unit >= 0]] = True
        kept[group.name] = [int(unit) for unit in np.flatnonzero(alive)]
        for member in members:
            units_of.setdefault(at[member.site], []).append((member, alive))
    for edit, found in units_of.items():
        mask = np.ones_like(masks[edit])
        for member, alive in found:
            units = np.array(member.units)
            line = (units < 0) | alive[units]
            mask &= line.reshape([-1 if axis == member.axis else 1 for axis in range(mask.ndim)])
        result[edit] = mask
    return result, kept
