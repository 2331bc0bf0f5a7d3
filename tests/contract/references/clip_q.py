"""clip_q by sorting each sign's weights and looking at one interval after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.contract.references.reference import AlgorithmReference


def clipped(x: np.ndarray, pruning: float, bits: int) -> np.ndarray:
    """float32 in and out."""
    signs = [sign for sign in (-1, 1) if (sign * x > 0).any()]
    kept = {sign: np.sort(sign * x[sign * x > 0])[math.floor(pruning * np.sum(sign * x > 0)) :] for sign in signs}
    span = {sign: sizes[-1] - sizes[0] for sign, sizes in kept.items()}
    levels = 2**bits - 1
    intervals = dict.fromkeys(signs, levels)
    if len(signs) == 2:
        share = span[1] / sum(span.values()) if sum(span.values()) else 0.5
        intervals[1] = int(np.clip(np.round(levels * share), 1, levels - 1))
        intervals[-1] = levels - intervals[1]
    y = np.zeros_like(x)
    for sign in signs:
        first, width = kept[sign][0], span[sign] / np.float32(intervals[sign])
        for index in range(intervals[sign]):
            place = (sign * x - first) / (width or 1)
            inside = (sign * x >= first) & (np.minimum(np.floor(place), intervals[sign] - 1) == index)
            y[inside] = x[inside].astype(np.float64).mean() if inside.any() else 0
    return y


def _forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return clipped(x, transform.pruning, transform.bits) if variables["begun"] else x


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    for (_, kind), variables in net.variables.items():
        if kind == "clip_q":
            variables["begun"] = np.float32(max(epoch, 0) >= algorithm.params.start_epoch)


def _vjp(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    return g, {}


REFERENCE = AlgorithmReference(begins=_begins, forwards={"clip_q": _forward}, vjps={"clip_q": _vjp})
