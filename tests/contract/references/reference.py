"""The parts that the reference of an algorithm may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STEPS = 2  # per epoch, in all of the contract's training


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Forward:
    """A forward of the reference net: its input, its output, and the float net's output for the same input.

    tensors, of_teacher: by role, in both nets.
    """

    x: np.ndarray
    out: np.ndarray
    teacher: np.ndarray
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    of_teacher: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """A term of the loss with its gradients: by the net's output, by tensors and by raw weights by their role, by variables at
    (role, kind, name)."""

    value: float
    by_output: np.ndarray | float = 0.0
    by_tensor: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_weight: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_variable: Mapping[tuple[str, str, str], np.ndarray] = field(default_factory=dict)


def _nothing_begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    pass


def _nothing_ends(net: Any, algorithm: Any, epoch: int, step: int) -> None:
    pass


def _no_loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    return Term(0.0)


def as_it_is(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return x


def masked(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return x * variables["mask"]


def _all_stay(net: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return weights


@dataclass(frozen=True)
class AlgorithmReference:
    """begins(net, algorithm, epoch, step): the model is made (epoch -1), or an epoch (step None) or a step begins: put what the
    algorithm puts into `net.variables`. ends(net, algorithm, epoch, step): the optimizer has made the step.
    loss(net, algorithm, forward): the algorithm's term. forwards: by transform kind, `(transform, x, variables, training) -> y`;
    vjps: by transform kind, `(transform, x, variables, g) -> (gradient by x, gradients by trainable variables)`; both by hand.
    stays(net, weights): what a stripped model has of them, by role.
    in_layout: by transform kind, `(transform, role, transposed) -> transform` as it is where weights are (inputs, outputs);
    transposed: whether the framework has them the other way round.
    """

    begins: Callable[[Any, Any, int, int | None], None] = _nothing_begins
    ends: Callable[[Any, Any, int, int], None] = _nothing_ends
    loss: Callable[[Any, Any, Forward], Term] = _no_loss
    forwards: Mapping[str, Callable[[Any, np.ndarray, Any, bool], np.ndarray]] = field(default_factory=dict)
    vjps: Mapping[str, Callable[..., tuple[np.ndarray, dict[str, np.ndarray]]]] = field(default_factory=dict)
    stays: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]] = _all_stay
    in_layout: Mapping[str, Callable[[Any, str, bool], Any]] = field(default_factory=dict)
