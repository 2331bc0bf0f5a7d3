from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.references.reference import STEPS, AlgorithmReference, masked


def _masks(weights: dict[str, np.ndarray], level: float, importance: str, over_all: bool) -> dict[str, np.ndarray]:
    """Zero for the share `level` of all weights, or of each layer's, that is least important."""
    size = {role: np.abs(w) / (np.linalg.norm(w) if importance == "normed_abs" else 1) for role, w in weights.items()}
    masks = {role: np.ones_like(w) for role, w in weights.items()}
    for group in [list(weights)] if over_all else [[role] for role in weights]:
        ascending = sorted((size[role][at], role, at) for role in group for at in np.ndindex(size[role].shape))
        for _, role, at in ascending[: round(level * len(ascending))]:
            masks[role][at] = 0
    return masks


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    params = algorithm.params
    every_step = params.update_per_optimizer_step and (params.steps_per_epoch or epoch > 0)
    if epoch > params.sparsity_freeze_epoch or (step is not None and (not every_step or epoch >= params.sparsity_freeze_epoch)):
        return
    if epoch < 0:
        level = algorithm.sparsity_init
    elif params.schedule == "adaptive":  # a magnitude mask is always at its level
        level = min(algorithm.sparsity_init + 0.05 * (epoch + 1), params.sparsity_target)
    else:
        level = algorithm.level(epoch + (step or 0) / STEPS)
    roles = [role for role in ("fc1.weight", "fc2.weight") if (role, "mask") in net.variables]
    weights = {role: net.weights[role] for role in roles}
    over_all = params.sparsity_level_setting_mode == "global"
    for role, mask in _masks(weights, level, params.weight_importance, over_all).items():
        net.variables[role, "mask"]["mask"] = mask


def _vjp(transform: Any, x: Any, variables: Any, g: Any) -> Any:
    return g * variables["mask"], {}


REFERENCE = AlgorithmReference(begins=_begins, forwards={"mask": masked}, vjps={"mask": _vjp})
