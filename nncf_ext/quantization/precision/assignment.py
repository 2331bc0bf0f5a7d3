"""The choice of bits as an integer programme: what may be chosen, what follows for activations, the cost, and the optimum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Bits = Mapping[str, int]  # by edit key
_SLACK = 1e-9  # relative; a cost that is equal must not be larger by rounding
_BUDGET_SLACK = 1e-7  # relative; a ratio that is met exactly must not fail by rounding, nor by the solver's tolerance for rows


@dataclass(frozen=True)
class Use:
    """An operator that multiplies with a weight: its FLOPs, and the keys of the activations that it multiplies it with."""

    flops: int
    activations: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """options: bits to choose from, ascending, by edit key, of weights and of activations that meet weights.

    groups: (weights, activations) that meet; only those with weights. uses: by weight. strict: one number of bits in each group.
    """

    options: Mapping[str, tuple[int, ...]]
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    uses: Mapping[str, tuple[Use, ...]]
    strict: bool = False

    @cached_property
    def weights(self) -> tuple[str, ...]:
        return tuple(key for weights, _ in self.groups for key in weights)

    @property
    def most(self) -> dict[str, int]:
        """Every weight at its most bits."""
        return {key: self.options[key][-1] for key in self.weights}

    def with_activations(self, bits: Bits) -> dict[str, int]:
        """`bits` of the weights, and what follows for the activations: the fewest of their own options that a weight of the group
        has; where none has any of them, the fewest. (NNCF 2.x `_set_activation_bitwidth_liberally`.)"""
        result = dict(bits)
        for weights, activations in self.groups:
            used = {bits[key] for key in weights}
            for key in activations:
                result[key] = min(used.intersection(self.options[key]), default=self.options[key][0])
        return result

    def bit_operations(self, bits: Bits) -> float:
        """Sum over operators of FLOPs * max(bits of the weight, bits of its input); a float input counts as the weight does."""
        bits = self.with_activations(bits)
        return sum(
            use.flops * max(bits[key], *(bits[activation] for activation in use.activations), 0)
            for key in self.weights
            for use in self.uses[key]
        )

    def ratio(self, bits: Bits) -> float:
        """Bit operations with 8 bits everywhere over those with `bits` (NNCF 2.x's compression ratio of HAWQ)."""
        operations = self.bit_operations(bits)
        return 8 * self.flops / operations if operations else 1.0

    @property
    def flops(self) -> int:
        return sum(use.flops for uses in self.uses.values() for use in uses)


def fewest_operations(choices: Choices) -> dict[str, int]:
    """Bits of the weights with the least bit operations, hence the largest ratio."""
    return _solve(choices, None, None)


def least_damage(choices: Choices, damage: Mapping[str, Mapping[int, float]], ratio: float) -> dict[str, int]:
    """Bits of the weights with the smallest sum of `damage[weight][bits]` among those with at least that ratio.

    It must be attainable. Exact: the programme is solved to optimality, over every combination of bits.
    """
    return _solve(choices, damage, 8 * choices.flops / ratio * (1 + _BUDGET_SLACK))


def _solve(choices: Choices, damage: Mapping[str, Mapping[int, float]] | None, budget: float | None) -> dict[str, int]:
    """Minimise the damage within the budget, or, without damage, the bit operations.

    Variables: x = a weight has these bits; for activations that can have more bits than their weight, y = they have these bits,
    and per operator the bits that they add to the weight's.
    """
    program = _Program()
    unit = max(choices.flops, 1)
    operations: dict[int, float] = {}  # bit operations over FLOPs, as a linear function
    for key in choices.weights:
        for bits in choices.options[key]:
            x = program.variable((key, bits), integer=True)
            operations[x] = bits * sum(use.flops for use in choices.uses[key]) / unit
        program.row({program[key, bits]: 1.0 for bits in choices.options[key]}, 1, 1)
    for weights, activations in choices.groups:
        if choices.strict:
            for other in weights[1:]:
                for bits in choices.options[other]:
                    program.row({program[weights[0], bits]: 1.0, program[other, bits]: -1.0}, 0, 0)
        for key in activations:
            if any(bits not in choices.options[key] for weight in weights for bits in choices.options[weight]):
                _follow(program, choices, key, weights)
    for key in choices.weights:
        for use in choices.uses[key]:
            added = None
            for activation in use.activations:
                for bits in choices.options[key]:
                    if bits in choices.options[activation]:
                        continue  # then the activation has no more than these
                    for more in (other for other in choices.options[activation] if other > bits):
                        if added is None:
                            added = program.variable()
                            operations[added] = use.flops / unit
                        both = {program[key, bits]: bits - more, program[activation, more]: bits - more}
                        program.row({added: 1.0, **both}, bits - more, np.inf)
    if damage is None:
        return program.minimum(operations, set(choices.weights))
    program.row(operations, -np.inf, 0.0 if budget is None else budget / unit)
    cost = {program[key, bits]: value for key in choices.weights for bits, value in damage[key].items()}
    return program.minimum(cost, set(choices.weights))


def _follow(program: _Program, choices: Choices, key: str, weights: Sequence[str]) -> None:
    """Variables y for the bits of an activation, tied to the weights as `Choices.with_activations` says."""
    options = choices.options[key]
    used = {}
    for bits in options:
        having = [program[weight, bits] for weight in weights if bits in choices.options[weight]]
        used[bits] = program.variable()  # 1 where a weight has these bits
        program.row({used[bits]: 1.0, **dict.fromkeys(having, -1.0)}, -np.inf, 0)
        for x in having:
            program.row({used[bits]: 1.0, x: -1.0}, 0, np.inf)
        program.variable((key, bits))
    program.row({program[key, bits]: 1.0 for bits in options}, 1, 1)
    for index, bits in enumerate(options):  # used, and none of the fewer
        fewer = {used[other]: 1.0 for other in options[:index]}
        program.row({program[key, bits]: 1.0, used[bits]: -1.0, **fewer}, 0, np.inf)
    program.row({program[key, options[0]]: 1.0, **dict.fromkeys(used.values(), 1.0)}, 1, np.inf)  # none used


class _Program:
    """Variables from 0 (to 1 where they are integers) and rows `lower <= sum(coefficient * variable) <= upper`."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], int] = {}
        self._integer: list[bool] = []
        self._rows: list[tuple[dict[int, float], float, float]] = []

    def __getitem__(self, name: tuple[str, int]) -> int:
        return self._names[name]

    def variable(self, name: tuple[str, int] | None = None, integer: bool = False) -> int:
        self._integer.append(integer)
        index = len(self._integer) - 1
        if name is not None:
            self._names[name] = index
        return index

    def row(self, coefficients: dict[int, float], lower: float, upper: float) -> None:
        self._rows.append((coefficients, lower, upper))

    def minimum(self, cost: Mapping[int, float], keys: Collection[str]) -> dict[str, int]:
        """The bits of `keys` at the smallest sum of `cost` (not negative) times variable."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        integer = np.array(self._integer)
        objective = np.zeros(len(integer))
        objective[list(cost)] = list(cost.values())
        entries = [(row, column, value) for row, (line, _, _) in enumerate(self._rows) for column, value in line.items()]
        rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
        matrix = coo_array((values, (rows, columns)), (len(self._rows), len(integer))).tocsr()
        lower, higher = np.array([line[1:] for line in self._rows]).T
        constraints: Any = LinearConstraint(matrix, lower, higher)  # pyright: ignore[reportArgumentType]
        upper = np.where(integer, 1.0, np.inf)
        while True:
            # HiGHS stops within 1e-6 of the optimum, whatever the scale. What costs more by itself than a whole solution is in no
            # better one: without it the scale fits those that are.
            scaled = np.where(upper > 0, objective, 0)
            scaled = scaled / (scaled.max() or 1) * 1e6
            solved = milp(
                scaled,
                integrality=integer.astype(int),
                bounds=Bounds(0, upper),  # pyright: ignore[reportArgumentType]
                constraints=constraints,
                options={"mip_rel_gap": 0},
            )
            if solved.x is None:
                raise ValueError(f"no choice of bits is within the budget: {solved.message}")
            chosen = np.where(integer, np.round(solved.x), solved.x)
            hopeless = integer & (upper > 0) & (objective > objective @ chosen * (1 + _SLACK))
            if not hopeless.any():
                return {key: bits for (key, bits), x in self._names.items() if key in keys and chosen[x] == 1}
            upper[hopeless] = 0
