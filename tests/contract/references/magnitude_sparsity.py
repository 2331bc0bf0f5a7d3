from __future__ import annotations

from typing import Any

from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.magnitude_sparsity import masks_at_level
from tests.contract.references.reference import STEPS, AlgorithmReference


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
    weights = [net.weights[role] for role in roles]
    over_all = params.sparsity_level_setting_mode == "global"
    for role, mask in zip(roles, masks_at_level(xp, weights, level, params.weight_importance, over_all), strict=True):
        net.variables[role, "mask"]["mask"] = mask


def _vjp(transform: Any, x: Any, variables: Any, g: Any) -> Any:
    return g * variables["mask"], {}


REFERENCE = AlgorithmReference(begins=_begins, vjps={"mask": _vjp})
