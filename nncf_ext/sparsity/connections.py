"""Connections of sparsely trained layers: how many each layer has, in which shapes, and how they move.

A layer's weight is seen as units in groups, an array (groups, units): every unit is there or not, as a whole, and the number of
those that are there never changes in a group. Their order is by outputs, inputs, kernel positions, whatever the framework's is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nncf_ext.scopes import matched_by, matches
from nncf_ext.sparsity.selection import descending_ranks, keep_largest, n_of_m

SEED = 0x7167
_HUGE = 3e38


def erdos_renyi_densities(shapes: Sequence[tuple[int, ...]], level: float) -> list[float]:
    """Densities of layers in proportion to (sum of the dimensions) / (their product), all in all 1 - `level` of the weights.

    Layers that would get more than all of their weights are dense, and the others share what is left (Evci et al. 2020, ERK;
    Mocanu et al. 2018 without kernels).
    """
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    raw = np.array([sum(shape) for shape in shapes], float) / sizes
    dense = np.zeros(len(shapes), bool)
    while True:
        scale = ((1 - level) * sizes.sum() - sizes[dense].sum()) / max((raw * sizes)[~dense].sum(), 1e-300)
        density = np.where(dense, 1.0, raw * scale)
        over = ~dense & (density > 1)
        if not over.any():
            return [float(d) for d in density]
        dense |= over & (raw == raw[over].max())


def densities(
    distribution: str | Mapping[str, float],
    layers: Mapping[str, tuple[int, ...]],
    level: float,
    json_path: str = "distribution",
    validate: bool = True,
) -> list[float]:
    """Of layers, given as shapes by their names, at `level`: `uniform`, `erk`, or as levels by scope say, the later of several;
    where these say nothing, 1 - `level`. ConfigError at the path `json_path` for a scope that matches none."""
    if isinstance(distribution, str):
        uniform = distribution == "uniform" or not layers
        return [1 - level] * len(layers) if uniform else erdos_renyi_densities([*layers.values()], level)
    for scope in distribution:
        matched_by(scope, layers, json_path, validate, "sparse layer")
    return [
        1 - next((own for scope, own in reversed([*distribution.items()]) if matches(name, [scope])), level) for name in layers
    ]


@dataclass(frozen=True)
class Structure:
    """How a weight is made of units.

    shape: the weight's. working: the shape in which `output_axis` and `input_axis` are axes of their own. kind: of the config.
    block: outputs and inputs of a unit, for kind `block`. group: inputs of a group, for `n:m`.
    """

    kind: str
    shape: tuple[int, ...]
    working: tuple[int, ...]
    output_axis: int
    input_axis: int
    block: tuple[int, int] = (1, 1)
    group: int = 0

    @property
    def matrix(self) -> tuple[int, int, int]:
        """Outputs, inputs, kernel positions."""
        outputs, inputs = self.working[self.output_axis], self.working[self.input_axis]
        return outputs, inputs, math.prod(self.working) // (outputs * inputs)

    @property
    def unit_size(self) -> int:
        """Weights in a unit."""
        outputs, inputs, kernel = self.matrix
        return {"block": math.prod(self.block), "channel": inputs * kernel}.get(self.kind, 1)

    @property
    def groups(self) -> tuple[int, int]:
        """Shape of the array of units."""
        outputs, inputs, kernel = self.matrix
        if self.kind == "constant_fan_in":
            return outputs, inputs * kernel
        if self.kind == "n:m":
            return outputs * kernel * (inputs // self.group), self.group
        return 1, outputs * inputs * kernel // self.unit_size

    def kept_units(self, level: float) -> int:
        """Units of a group that are there at `level`: the zeros are rounded down."""
        units = self.groups[1]
        return units - math.floor(level * units + 1e-9)

    def units(self, xp: Any, x: Any) -> Any:
        """The weight-shaped `x`, summed over each unit, as (groups, units)."""
        x = self._outputs_inputs_kernel(xp, x)
        outputs, inputs, kernel = self.matrix
        if self.kind == "block":
            rows, columns = self.block
            x = xp.sum(xp.reshape(x, (outputs // rows, rows, inputs // columns, columns, kernel)), axis=(1, 3))
        elif self.kind == "channel":
            x = xp.sum(xp.reshape(x, (outputs, inputs * kernel)), axis=1)
        elif self.kind == "n:m":
            x = xp.moveaxis(x, 2, 1)
        return xp.reshape(x, self.groups)

    def spread(self, xp: Any, units: Any) -> Any:
        """The (groups, units) array in the weight's shape: each unit's number at all of its weights."""
        outputs, inputs, kernel = self.matrix
        if self.kind == "block":
            rows, columns = self.block
            small = xp.reshape(units, (outputs // rows, 1, inputs // columns, 1, kernel))
            x = small + xp.zeros_like(
                xp.reshape(self._like(xp, units), (outputs // rows, rows, inputs // columns, columns, kernel))
            )
        elif self.kind == "channel":
            x = xp.reshape(units, (outputs, 1)) + xp.zeros_like(xp.reshape(self._like(xp, units), (outputs, inputs * kernel)))
        elif self.kind == "n:m":
            x = xp.moveaxis(xp.reshape(units, (outputs, kernel, inputs)), 1, 2)
        else:
            x = units
        x = xp.reshape(x, self._moved)
        return xp.reshape(xp.moveaxis(x, (0, 1), (self.output_axis, self.input_axis)), self.shape)

    def gain(self, xp: Any, mask: Any) -> Any:
        """In the weight's shape: by what the weights of each output with the connections `mask` are multiplied, for it to vary as
        with all of them (Evci et al. 2022, "Gradient flow in sparse neural networks and how lottery tickets win", sec. 3.1)."""
        outputs = replace(self, kind="channel")
        return outputs.spread(xp, xp.sqrt(outputs.unit_size / xp.maximum(outputs.units(xp, mask), 1.0)))

    @property
    def _moved(self) -> tuple[int, ...]:
        rest = [n for axis, n in enumerate(self.working) if axis not in (self.output_axis, self.input_axis)]
        return (self.working[self.output_axis], self.working[self.input_axis], *rest)

    def _outputs_inputs_kernel(self, xp: Any, x: Any) -> Any:
        x = xp.moveaxis(xp.reshape(x, self.working), (self.output_axis, self.input_axis), (0, 1))
        return xp.reshape(x, self.matrix)

    def _like(self, xp: Any, units: Any) -> Any:
        return xp.asarray(np.zeros(self.shape, np.float32), like=units)


def random_scores(step: int, layer: int, structure: Structure) -> np.ndarray:
    """Numbers in [0, 1), one per unit, that depend on nothing else: the same in every process and framework."""
    generator = np.random.Generator(np.random.Philox(key=SEED, counter=[0, 0, layer, step]))
    return generator.random(structure.groups, np.float32)


def first_units(xp: Any, structure: Structure, score: Any, kept: int) -> Any:
    """Booleans, (groups, units): the `kept` units of each group with the largest scores."""
    if structure.groups[0] == 1:
        return xp.reshape(keep_largest(xp, xp.reshape(score, (-1,)), kept), structure.groups)
    if structure.kind == "n:m":
        return n_of_m(xp, score, kept) > 0
    return descending_ranks(xp, score) < kept


def drop_and_grow(xp: Any, structure: Structure, size: Any, present: Any, score: Any, dropped: int, grown: int) -> Any:
    """The units that are there afterwards, (groups, units) booleans: without the `dropped` smallest in the layer, and with the
    `grown` largest by `score` among all that are then not there, which those just dropped are too (Evci et al. 2020, alg. 1).

    size, score: not negative. In a structure of several groups each grows as many as it dropped (`grown` == `dropped`).
    """
    count, one = structure.groups[0] * structure.groups[1], xp.asarray(np.float32(1))
    # arithmetic, because `json_path` takes several times as long on CPUs
    flat = xp.reshape(xp.maximum(size, _HUGE * (1 - xp.cast_like(present, one))), (-1,))
    kept = present & xp.reshape(keep_largest(xp, flat, count - dropped), structure.groups)
    there = xp.cast_like(kept, one)
    candidates = xp.minimum(score, _HUGE * (1 - there) - there)  # -1 where it is there
    if structure.groups[0] == 1:
        return kept | xp.reshape(keep_largest(xp, xp.reshape(candidates, (-1,)), grown), structure.groups)
    lost = xp.sum(xp.cast_like(present, size) - xp.cast_like(kept, size), axis=1, keepdims=True)
    return kept | (xp.cast_like(descending_ranks(xp, candidates), size) < lost)
