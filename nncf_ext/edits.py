"""What an algorithm asks for: transforms on sites, as plain data that prints, compares and is saved as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from nncf_ext import noise, numerics, numpy_xp
from nncf_ext.encodings import Encoding
from nncf_ext.files.json_text import Unreadable
from nncf_ext.graph import Graph, Site

# Stages: at one site a lower one is applied first, in whatever order a config has the algorithms. Weights share values as masks
# leave them, and a quantizer sees what they have become. CARRY: the tensor stays as it is, the variables are for a loss.
MASK, SHARE, QUANTIZE, CARRY = 10, 15, 20, 30


@dataclass(frozen=True)
class Var:
    """A variable that a transform needs; the adapter makes a parameter (trainable), a buffer or a Keras variable of it."""

    value: np.ndarray
    trainable: bool = False


@dataclass(frozen=True)
class Range:
    """Smallest and largest values seen at a site, in the quantizer's broadcastable shape (all ones for per-tensor).

    values: (channels, n), evenly spaced ones of those seen, for a transform that asks for them.
    """

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray | None = None


@dataclass(frozen=True)
class ObserverSpec:
    """Which tensor is observed, and how a range is made of what is seen.

    of_parameter: the tensor is no batch of samples. kind: `RangeInit.type`. percentiles: of the kinds that have some.
    """

    of_parameter: bool
    kind: str = "mixed_min_max"
    percentiles: tuple[float, float] = (0.1, 99.9)


class Observer(Protocol):
    """Sees the tensors that pass a site, batch by batch, and makes a range of them. `is_empty`: nothing was seen yet."""

    @property
    def is_empty(self) -> bool: ...

    def update(self, x: np.ndarray) -> None: ...

    def result(self) -> Range: ...


class Transform(BaseModel):
    """A pure function of one tensor: its settings are the fields, its variables live in the model.

    `calibrate` fixes what depends on data (so that the plan in a checkpoint is complete) and gives the first values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    stage: ClassVar[int]

    def observer(self, spec: ObserverSpec) -> Observer | None:
        """What has to see its tensor before training; None where it needs no range."""
        return None

    def check(self, variables: Mapping[str, np.ndarray]) -> None:
        """Unreadable where values from a file are none of this transform: numbers of codes or rows that are not there, say."""
        rows = variables.get("rows")
        if rows is not None and rows.size and not (rows.min() >= 0 and rows.max() < noise.ROWS):
            raise Unreadable(f"rows: found numbers from {rows.min()} to {rows.max()}, expected from 0 to {noise.ROWS - 1}")

    def describe(self, variables: Mapping[str, np.ndarray], x: np.ndarray | None) -> str:
        """What it makes of the tensor `x` of a parameter (None: unknown), and its variables: for people."""
        masks = self.stage == MASK and (x is not None or variables)
        size = (max(value.size for value in variables.values()) if x is None else x.size) if masks else 0
        shown = [self._zeros(variables, x)] if masks else []
        for name, value in sorted(variables.items()):
            if value.dtype.kind not in "iub" and value.size and not (masks and 1 < value.size >= size):
                shown.append(f"{name} {_span(value)}")
        return ", ".join(shown)

    def _zeros(self, variables: Mapping[str, np.ndarray], x: np.ndarray | None) -> str:
        if x is None:
            x = np.ones(max((value.shape for value in variables.values()), key=lambda shape: (np.prod(shape), len(shape))))
        masked = self.apply(numpy_xp, x.astype(np.float32), variables, False)
        return f"{1 - np.count_nonzero(masked) / max(masked.size, 1):.1%} zeros of {masked.size:,}"

    def encoded(self, xp: Any, variables: Mapping[str, Any]) -> Encoding | None:
        """What its values are where files store them in other forms: numbers of a grid as integers, say."""
        return None

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        raise NotImplementedError

    def apply(self, xp: Any, x: Any, variables: Mapping[str, Any], training: bool) -> Any:
        raise NotImplementedError


def _span(values: np.ndarray) -> str:
    if values.size == 1:
        return f"{float(values.reshape(-1)[0]):.4g}"
    return f"{float(values.min()):.4g} .. {float(values.max()):.4g} ({values.size} channels)"


def check_codes(codes: np.ndarray, count: int) -> None:
    """Unreadable where they are neither all -1 (no codes yet) nor numbers below `count`."""
    if codes.size and not (codes.min() >= 0 and codes.max() < count) and not (codes == -1).all():
        raise Unreadable(f"codes: found numbers from {codes.min()} to {codes.max()}, expected from 0 to {count - 1}, or all -1")


@dataclass(frozen=True)
class Edit:
    """`transform` on every one of `sites`, which share its variables (more than one: a unified scale, a tied weight).

    lr_multiplier: factor on the gradients of its variables (NNCF 2.x `compression_lr_multiplier`).
    operators: the nodes that it is for, where that is not the nodes of the sites: those that read a quantized tensor.
    """

    sites: tuple[Site, ...]
    transform: Transform
    algorithm: str
    lr_multiplier: float = 1.0
    operators: tuple[str, ...] = ()

    @property
    def site(self) -> Site:
        return self.sites[0]

    @property
    def of_parameters(self) -> bool:
        """Whether no activation is among its sites."""
        return all(site.is_parameter for site in self.sites)

    @property
    def needs_range(self) -> bool:
        """Whether its transform is calibrated with what passes its sites."""
        return self.transform.observer(ObserverSpec(self.site.is_parameter)) is not None

    def shape_in(self, graph: Graph) -> tuple[int, ...]:
        """Of the first tensor with the fewest axes among its sites: one number for each tensor then goes with all of them."""
        return min((graph.shape_of(site) for site in self.sites), key=len)

    @property
    def key(self) -> str:
        """Unique in a plan; names the edit's variables in checkpoints."""
        return f"{self.site}|{self.transform.kind}"

    def apply(self, xp: Any, x: Any, variables: Mapping[str, Any], training: bool) -> Any:
        return self.transform.apply(xp, x, self.differentiable(xp, variables), training)

    def differentiable(self, xp: Any, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """The variables as the edit's arithmetic sees them: with `lr_multiplier` on their gradients."""
        if self.lr_multiplier == 1:
            return variables
        return {name: numerics.scale_gradient(xp, value, self.lr_multiplier) for name, value in variables.items()}

    def to_json(self) -> dict[str, Any]:
        multiplied = {} if self.lr_multiplier == 1 else {"lr_multiplier": self.lr_multiplier}
        read_by = {"operators": list(self.operators)} if self.operators else {}
        return {
            "sites": [str(site) for site in self.sites],
            "transform": self.transform.model_dump(mode="json"),
            "algorithm": self.algorithm,
            **multiplied,
            **read_by,
        }


@dataclass(frozen=True)
class Removal:
    """Only the indices `keep` (ascending, none twice) along `axis` of the parameter at `site` stay in a stripped model."""

    site: Site
    axis: int
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Edits in the order in which they are applied, and why the layers that an algorithm left out were left out."""

    edits: tuple[Edit, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def of(self, algorithm: str) -> tuple[Edit, ...]:
        return tuple(edit for edit in self.edits if edit.algorithm == algorithm)

    def at(self, site: Site) -> tuple[Edit, ...]:
        return tuple(edit for edit in self.edits if site in edit.sites)

    def to_json(self) -> dict[str, Any]:
        return {"edits": [edit.to_json() for edit in self.edits], "skipped": [list(item) for item in self.skipped]}

    def __str__(self) -> str:
        return "\n".join(f"{edit.key}: {edit.transform!r}" for edit in self.edits)


def compose(plans: Iterable[Plan]) -> Plan:
    """One plan out of several: by stage, then in the order of the algorithms. ValueError where two edits collide."""
    plans = tuple(plans)
    edits = sorted((edit for plan in plans for edit in plan), key=lambda edit: edit.transform.stage)
    seen: dict[tuple[Site, str], str] = {}
    for edit in edits:
        for site in edit.sites:
            other = seen.setdefault((site, edit.transform.kind), edit.algorithm)
            if other != edit.algorithm:
                raise ValueError(f"{site}: both {other} and {edit.algorithm} place a {edit.transform.kind} there")
    return Plan(tuple(edits), tuple(item for plan in plans for item in plan.skipped))
