"""Regularisers of weights, over `xp`: scalars that are small where a model can be stored, or run, in little.

Each is a mean over all regularised weights (N of them), so that its factor in the loss does not depend on the model's size.
`weights`: the layers' raw weights; `axes`: of each, the axis of its output channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nncf_ext.noise import logistic

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1  # temperature and ends of the stretched distribution of a gate
_SMALLEST = 1e-24  # under a root: its gradient at zero is then zero, not infinite


def l1(xp: Any, weights: Sequence[Any]) -> Any:
    """sum |w| / N. Gradient: sign(w) / N."""
    return _total([xp.sum(xp.abs(w)) for w in weights]) / _count(weights)


def group_lasso(xp: Any, weights: Sequence[Any], axes: Sequence[int]) -> Any:
    """sum over output channels g of sqrt(|g|) * ||w_g|| / N, |g| weights in it (Yuan & Lin 2006). Gradient: sqrt(|g|) * w /
    ||w_g|| / N."""
    terms = [math.sqrt(group_size(w, axis)) * xp.sum(group_norms(xp, w, axis)) for w, axis in zip(weights, axes, strict=True)]
    return _total(terms) / _count(weights)


def l0(xp: Any, gates: Sequence[Any]) -> Any:
    """Mean probability that a gate is not zero: P = sigmoid(gate - BETA * log(-LOW / HIGH)) (Louizos et al. 2018, eq. 12).
    Gradient by a gate: P * (1 - P) / N."""
    shift = BETA * math.log(-LOW / HIGH)
    return _total([xp.sum(xp.sigmoid(gate - shift)) for gate in gates]) / _count(gates)


def hard_concrete(xp: Any, gate: Any, noise: Any = None) -> Any:
    """clip(LOW + (HIGH - LOW) * s, 0, 1) with s = sigmoid((gate + noise) / BETA), noise logistic; without noise s = sigmoid(gate)
    (Louizos et al. 2018, eq. 10, 11 and 13): exactly 0 and exactly 1 with a probability each, and differentiable."""
    s = xp.sigmoid(gate if noise is None else (gate + noise) / BETA)
    return xp.clip(LOW + (HIGH - LOW) * s, 0.0, 1.0)


def hard_concrete_gated(xp: Any, x: Any, gate: Any, rows: Any = None) -> Any:
    """x times a gate of each element, with the noise of `rows` (see `nncf_ext.noise`), or without noise."""
    return x * hard_concrete(xp, gate, None if rows is None else logistic(xp, rows, tuple(gate.shape)))


def entropy(xp: Any, weights: Sequence[Any], delta: float) -> Any:
    """Mean of log2(1 + |w| / delta), about the bits that a code for integers of a Laplace-like distribution takes for w in steps
    of delta. Gradient: sign(w) / (ln 2 * (delta + |w|)) / N."""
    return _total([xp.sum(xp.log(1 + xp.abs(w) / delta)) for w in weights]) / (math.log(2) * _count(weights))


def bit_width(xp: Any, spans: Sequence[Any], sizes: Sequence[int], delta: float) -> Any:
    """sum N_l * b_l / sum N_l over quantized layers of N_l weights, where b_l is the mean over the layer's ranges of
    log2(1 + span / delta): bits that name every step of delta in a learned range. Gradient by a span, of n in the layer:
    N_l / n / (ln 2 * (delta + span)) / sum N_l."""
    bits = [size * xp.mean(xp.log(1 + span / delta)) for span, size in zip(spans, sizes, strict=True)]
    return _total(bits) / (math.log(2) * sum(sizes))


def latency(xp: Any, weights: Sequence[Any], axes: Sequence[int], times: Sequence[float], delta: float) -> Any:
    """sum t_l * u_l / sum t_l, where u_l is the mean over the layer's output channels of r / (r + delta), r the root mean square
    of a channel's weights: a smooth share of those in use. Gradient: t_l / n * delta / (r + delta)^2 * w / (|g| * r) / sum t."""
    used = []
    for w, axis, time in zip(weights, axes, times, strict=True):
        r = group_norms(xp, w, axis) / math.sqrt(group_size(w, axis))
        used.append(time * xp.mean(r / (r + delta)))
    return _total(used) / max(math.fsum(times), _SMALLEST)


def soft_threshold(xp: Any, x: Any, threshold: Any) -> Any:
    """sign(x) * max(|x| - threshold, 0): the proximal map of threshold * |x|."""
    return xp.sign(x) * xp.maximum(xp.abs(x) - threshold, 0.0)


def group_soft_threshold(xp: Any, x: Any, threshold: Any, axis: int) -> Any:
    """Each output channel v becomes v * max(0, 1 - threshold / ||v||): the proximal map of threshold * ||v||."""
    norms = group_norms(xp, x, axis)
    return x * xp.maximum(1 - threshold / xp.maximum(norms, math.sqrt(_SMALLEST)), 0.0)


def group_norms(xp: Any, x: Any, axis: int) -> Any:
    """L2 norms of the output channels, in a shape that broadcasts to x."""
    others = tuple(a for a in range(len(x.shape)) if a != axis % len(x.shape))
    return xp.sqrt(xp.sum(xp.square(x), axis=others, keepdims=True) + _SMALLEST)


def group_size(x: Any, axis: int) -> int:
    return math.prod(x.shape) // x.shape[axis]


def _count(weights: Sequence[Any]) -> int:
    return sum(int(np.prod(w.shape)) for w in weights)


def _total(terms: Sequence[Any]) -> Any:
    return sum(terms[1:], terms[0])
