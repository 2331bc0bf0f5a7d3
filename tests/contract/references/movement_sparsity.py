from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nncf_ext.algorithms.movement_sparsity import MovementMask
from tests.contract.references.reference import STEPS, AlgorithmReference, Forward, Term

KIND = "movement_mask"
SHAPES = {"fc1.weight": (6, 8), "fc1.bias": (8,), "fc2.weight": (8, 3), "fc2.bias": (3,)}  # (inputs, outputs)


def _in_layout(transform: MovementMask, role: str, transposed: bool) -> MovementMask:
    """The transform in the reference's layout: a framework with (outputs, inputs) has its axes the other way round."""
    if not transposed:
        return transform
    assert transform.shape == SHAPES[role][::-1]
    return transform.model_copy(update={"shape": transform.shape[::-1], "block": transform.block[::-1]})


def _block(algorithm: Any, role: str) -> tuple[int, ...]:
    """What the config asks for at a role, as (inputs, outputs) of a block."""
    layer, slot = role.split(".")
    inputs, outputs = SHAPES[f"{layer}.weight"]
    rows, columns = 1, 1
    for structure in algorithm.sparse_structure_by_scopes:
        if structure.target_scopes == (f"{{re}}{layer}",):
            if structure.mode == "block":
                rows, columns = structure.sparse_factors
            elif structure.mode == "per_dim":
                rows, columns = (1, inputs) if structure.axis == 0 else (outputs, 1)
    return (columns, rows) if slot == "weight" else (rows,)


def _expanded(scores: np.ndarray, block: tuple[int, ...]) -> np.ndarray:
    return np.kron(scores, np.ones(block, scores.dtype))


def _threshold(value: float, scores: np.ndarray) -> float:
    return min(value, float(np.quantile(scores.astype(np.float64), 0.98)))


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    params = algorithm.params
    ours = {role: values for (role, kind), values in net.variables.items() if kind == KIND}
    blocks = {role: _block(algorithm, role) for role in ours}
    if epoch < 0:
        assert list(ours) == list(SHAPES)
        assert blocks == {role: net.edits[role][0].transform.block for role in ours}
        net.first_threshold = params.init_importance_threshold
        return
    passed = epoch + (step or 0) / STEPS
    scores = {role: _expanded(values["score"], blocks[role]) for role, values in ours.items()}
    frozen = next(iter(ours.values()))["schedule"][2] == 0
    if frozen or passed < params.warmup_start_epoch or (step is None and passed < params.warmup_end_epoch):
        return
    if passed < params.warmup_end_epoch:
        every = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
        if net.first_threshold is None and every[0] < every[-1]:
            net.first_threshold = every[int(len(every) * 0.001)]
        x = (passed - params.warmup_start_epoch) / (params.warmup_end_epoch - params.warmup_start_epoch)
        rise = 1 - (1 - x) ** params.power
        for role, values in ours.items():
            threshold = float(np.finfo(np.float32).min)
            if net.first_threshold is not None:
                threshold = (1 - rise) * net.first_threshold + rise * params.final_importance_threshold
            factor = rise * params.importance_regularization_factor
            values["schedule"] = np.array([_threshold(threshold, scores[role]), factor, 1], np.float32)
        return
    for role, values in ours.items():
        threshold = np.float32(_threshold(params.final_importance_threshold, scores[role]))
        values["schedule"] = np.array([np.finfo(np.float32).min, 0, 0], np.float32)
        values["mask"] = (scores[role] > threshold).astype(np.uint8)
    if params.enable_structured_masking:  # a channel is what fc1's column and bias make and fc2's row takes
        made, bias, taken = (ours[role]["mask"] for role in ("fc1.weight", "fc1.bias", "fc2.weight"))
        alive = made.any(0) | bias.astype(bool) | taken.any(1)
        made[:], bias[:], taken[:] = alive[None, :], alive, alive[:, None]


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    value, gradients = 0.0, {}
    for (role, kind), values in net.variables.items():
        if kind == KIND:
            sigmoid = 1 / (1 + np.exp(-values["score"].astype(np.float64)))
            strength = float(values["schedule"][1]) * 0.5 * math.prod(_block(algorithm, role)) / 2  # two layers
            value += strength * float(sigmoid.mean())
            multiplier = algorithm.compression_lr_multiplier or 1.0
            gradients[role, kind, "score"] = multiplier * strength * sigmoid * (1 - sigmoid) / sigmoid.size
    return Term(value, by_variable=gradients)


def _forward(transform: MovementMask, x: np.ndarray, variables: Mapping[str, Any], training: bool) -> np.ndarray:
    threshold, _, trained = variables["schedule"]
    return x * (_expanded(variables["score"], transform.block) > threshold if trained else variables["mask"])


def _vjp(
    transform: MovementMask, x: np.ndarray, variables: Mapping[str, Any], g: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    threshold, _, trained = variables["schedule"]
    if not trained:
        return g * variables["mask"], {}
    by_cell, starts = g * x, [np.arange(0, size, cells) for size, cells in zip(x.shape, transform.block, strict=True)]
    for axis, at in enumerate(starts):
        by_cell = np.add.reduceat(by_cell, at, axis)
    return g * (_expanded(variables["score"], transform.block) > threshold), {"score": by_cell}


def _stays(net: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where the frozen masks are of whole channels, those that are left; the first, fully masked, where none is."""
    made, bias, taken = (net.variables[role, KIND]["mask"] > 0 for role in ("fc1.weight", "fc1.bias", "fc2.weight"))
    if not ((made == bias[None, :]).all() and (taken == bias[:, None]).all()):
        return weights
    keep = bias if bias.any() else np.arange(len(bias)) == 0
    fc1, fc2 = weights["fc1.weight"][:, keep], weights["fc2.weight"][keep]
    return {**weights, "fc1.weight": fc1, "fc1.bias": weights["fc1.bias"][keep], "fc2.weight": fc2}


REFERENCE = AlgorithmReference(
    begins=_begins,
    loss=_loss,
    forwards={KIND: _forward},
    vjps={KIND: _vjp},
    stays=_stays,
    in_layout={KIND: _in_layout},
)
