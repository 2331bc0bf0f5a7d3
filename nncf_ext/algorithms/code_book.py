"""What algorithms have in common whose weights share the values of a code book."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nncf_ext import numerics
from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training, expect_codes_as_said
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.coding.code_books import Codebook, WeightedValues, entropy
from nncf_ext.coding.hessian_weighting import hessian_weights
from nncf_ext.config.code_books import CodeBookParams
from nncf_ext.config.section import ScopedConfig
from nncf_ext.edits import SHARE, Edit, Plan, Range, Transform, Var, check_codes
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph
from nncf_ext.schedules import Clock


class CodeBook(Transform):
    """`numerics.decoded` with trained `centroids` and fixed `codes`. levels: centroids that there may be."""

    kind: Literal["code_book"] = "code_book"
    stage: ClassVar[int] = SHARE
    levels: int

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        return self, {
            "centroids": Var(np.zeros(self.levels, np.float32), trainable=True),
            "codes": Var(np.full(shape, -1, np.int32)),
        }

    def check(self, variables: Mapping[str, np.ndarray]) -> None:
        check_codes(variables["codes"], variables["centroids"].size + 1)

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return numerics.decoded(xp, x, variables["codes"], variables["centroids"])


@dataclass(frozen=True)
class CodedLayer:
    """values: distinct ones other than zero that its weights have. bits: entropy of the codes, per weight. zeros: their share."""

    name: str
    values: int
    bits: float
    zeros: float


@dataclass(frozen=True)
class CodeBookStatistics:
    """bits: of all coded weights, per weight, zeros counted. Nothing is said of layers before they are coded."""

    coded: bool
    weights: int
    bits: float
    layers: tuple[CodedLayer, ...]


class CodedState(Remembered):
    coded: bool


class CodedWeights(Algorithm):
    """State: coded (whether the weights are coded yet)."""

    family: ClassVar[str] = "shared weights"
    remembers: ClassVar[type[Remembered]] = CodedState
    transforms: ClassVar[tuple[type[Transform], ...]] = (CodeBook,)
    params: CodeBookParams

    @property
    def most(self) -> int:
        """Values other than zero that a code book may have."""
        raise NotImplementedError

    def coded(self, books: Sequence[WeightedValues]) -> list[Codebook]:
        """The values of each code book. No book is without values."""
        raise NotImplementedError

    def description(self) -> str:
        """What happens to a weight."""
        raise NotImplementedError

    def plan(self, graph: Graph, target_device: str) -> Plan:
        assert isinstance(self, ScopedConfig)
        return plan_weights(graph, self, self.algorithm, CodeBook(levels=self.most))

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        return PlanSummary({site: self.description() for edit in edits for site in edit.sites})

    def start(self) -> State:
        return {"coded": False}

    def initialize(self, training: Training, state: State) -> State:
        return self._code(training) if self.params.start_epoch == 0 else self.listen(training, state)

    def resume(self, training: Training, state: State) -> None:
        self.listen(training, state)

    def check_loaded(self, training: Training, state: State) -> None:
        expect_codes_as_said(training, state)

    def listen(self, training: Training, state: State) -> State:
        """Optimizers are seen from their next step on."""
        if self.params.weighting == "adam" and not state["coded"]:
            training.attached.optimizer_hook.listen()
        return state

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        return self._code(training) if clock.epoch >= self.params.start_epoch and not state["coded"] else state

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        return CompressionStage.FULLY_COMPRESSED if state["coded"] else CompressionStage.UNCOMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        return () if state["coded"] else ("epoch_step",)

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if state["coded"] or not training.edits:
            return None
        return f"found no code books, expected from epoch {self.params.start_epoch} on"

    def report(self, training: Training, clock: Clock, state: State) -> CodeBookStatistics:
        layers, bits, size = [], 0.0, 0
        for edit in training.edits if state["coded"] else ():
            codes = np.where(training.weight_after_earlier_edits(edit.site) == 0, 0, training.variable(edit, "codes"))
            if codes.min(initial=0) < 0:  # the state was loaded, and the weights were not yet
                continue
            counts = np.bincount(codes.reshape(-1), minlength=1)
            own = entropy(counts)
            layers.append(CodedLayer(edit.site.label, int(np.count_nonzero(counts[1:])), own, float(counts[0]) / codes.size))
            bits, size = bits + own * codes.size, size + codes.size
        return CodeBookStatistics(state["coded"], size, bits / max(size, 1), tuple(layers))

    def _code(self, training: Training) -> State:
        """Find the values, on the first rank, and give every weight its code."""
        assert isinstance(self, ScopedConfig)
        json_path = self.path()
        weights = [training.weight_after_earlier_edits(edit.site) for edit in training.edits]
        for edit, weight in zip(training.edits, weights, strict=True):
            if not np.isfinite(weight).all():
                raise ConfigError(f"{json_path}: {edit.site} has NaN or infinite values, expected numbers to code")
        counted = hessian_weights(training, weights, self.params.weighting, self.params.weighting_samples, json_path)
        books = [
            WeightedValues(w[w != 0].astype(np.float64), h[w != 0].astype(np.float64), int(np.count_nonzero(w == 0)))
            for w, h in zip(weights, counted, strict=True)
        ]
        for edit, found in zip(training.edits, training.adapter.broadcast_from_rank0(self._found(books)), strict=True):
            _place(training, edit, found, json_path)
        return {"coded": True}

    def _found(self, books: Sequence[WeightedValues]) -> list[Codebook]:
        """By layer; a layer of zeros has no values."""
        held = [book for book in books if book.values.size]
        if self.params.code_books == "network" and held:
            values, weights = (np.concatenate([getattr(book, name) for book in held]) for name in ("values", "weights"))
            together = self.coded([WeightedValues(values, weights, sum(book.zeros for book in held))])[0]
            ends = np.cumsum([book.values.size for book in held])
            by_layer = [_own(together, codes) for codes in np.split(together.codes, ends[:-1])]
        else:
            by_layer = self.coded(held) if held else []
        found = iter(by_layer)
        return [next(found) if book.values.size else Codebook(np.empty(0), np.empty(0, np.int32)) for book in books]


def _own(together: Codebook, codes: np.ndarray) -> Codebook:
    """Of a common code book what one layer uses."""
    used = np.unique(codes[codes > 0])
    number = np.zeros(together.centroids.size + 1, np.int32)
    number[used] = 1 + np.arange(used.size)
    return Codebook(together.centroids[used - 1], number[codes])


def _place(training: Training, edit: Edit, found: Codebook, json_path: str) -> None:
    weight = training.weight_after_earlier_edits(edit.site)
    if found.codes.size and not found.codes.any():
        raise ConfigError(f"{json_path}: all {weight.size} weights of {edit.site.label} would be zero, expected more bits")
    codes = np.zeros(weight.shape, np.int32)
    codes[weight != 0] = found.codes
    assert isinstance(edit.transform, CodeBook)
    centroids = np.zeros(edit.transform.levels, np.float32)
    centroids[: found.centroids.size] = found.centroids
    training.attached.assign(edit, "centroids", centroids)
    training.attached.assign(edit, "codes", codes)
