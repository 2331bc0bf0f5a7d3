"""The net has one group: the 8 outputs of fc1, each with 6 weights, a bias, and 3 weights of fc2 that read it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.contract.references.reference import AlgorithmReference, masked

UNITS, FLOPS = 8, 2 * (6 * 8 + 8 * 3)


def _importance(weight: np.ndarray, kind: str) -> np.ndarray:
    filters = weight.T.astype(np.float64)
    if kind == "L1":
        return np.abs(filters).sum(1)
    if kind == "L2":
        return np.sqrt((filters**2).sum(1))
    return np.array([sum(np.linalg.norm(one - other) for other in filters) for one in filters])


def _pruned(params: Any, level: float) -> int:
    if params.pruning_flops_target is not None:
        return next(n for n in range(8) if FLOPS - n * FLOPS // UNITS <= round((1 - level) * FLOPS))
    if params.all_weights:
        return round(level * UNITS)
    return UNITS - min(math.ceil(UNITS * (1 - level) / 8) * 8, UNITS)


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    params = algorithm.params
    last = params.num_init_steps + (0 if params.schedule == "baseline" else params.pruning_steps)
    if step is not None or epoch > last:
        return
    at_first = 0.0 if params.num_init_steps else algorithm.pruning_init
    level = at_first if epoch < 0 else algorithm.level(epoch)
    order = np.argsort(_importance(net.weights["fc1.weight"], params.filter_importance))
    mask = np.ones(UNITS, np.float32)
    mask[order[: _pruned(params, level)]] = 0
    net.variables["fc1.weight", "filter_mask"]["mask"] = mask[None]
    net.variables["fc1.bias", "filter_mask"]["mask"] = mask


def _vjp(transform: Any, x: Any, variables: Any, g: Any) -> Any:
    return g * variables["mask"], {}


def _stays(net: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    keep = net.variables["fc1.bias", "filter_mask"]["mask"] > 0
    fc1, bias, fc2 = weights["fc1.weight"][:, keep], weights["fc1.bias"][keep], weights["fc2.weight"][keep]
    return {**weights, "fc1.weight": fc1, "fc1.bias": bias, "fc2.weight": fc2}


REFERENCE = AlgorithmReference(begins=_begins, forwards={"filter_mask": masked}, vjps={"filter_mask": _vjp}, stays=_stays)
