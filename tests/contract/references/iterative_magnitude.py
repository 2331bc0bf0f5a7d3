from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.references.reference import AlgorithmReference, Forward, Term, masked

ROLES, KIND = ("fc1.weight", "fc2.weight"), "mask"


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    params = algorithm.params
    passed = epoch - params.start_epoch
    if step is not None or passed < 0 or passed % params.epochs_per_round or passed // params.epochs_per_round >= params.rounds:
        return
    number = passed // params.epochs_per_round
    masks = {}
    for role in ROLES:
        weight, mask = net.weights[role], net.variables[role, KIND]["mask"] > 0
        if params.quality is not None:
            kept = mask & (np.abs(weight) >= params.quality * weight[mask].std())
        else:
            level = (
                params.distribution["{re}fc2"]
                if role == ROLES[1] and params.distribution != "uniform"
                else params.sparsity_target
            )
            count = weight.size - round((1 - (1 - level) ** ((number + 1) / params.rounds)) * weight.size)
            least = np.sort(np.abs(weight[mask]))[-min(count, int(mask.sum()))]
            kept = mask & (np.abs(weight) >= least)
        masks[role] = kept
    dead = ~masks[ROLES[0]].any(0) | ~masks[ROLES[1]].any(1)  # of the neurons between the two layers
    masks[ROLES[0]][:, dead] = False
    masks[ROLES[1]][dead] = False
    for role in ROLES:
        net.variables[role, KIND]["mask"] = masks[role].astype(np.float32)


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    params = algorithm.params
    if params.regularization is None:
        return Term(0.0)
    left = {role: net.weights[role] * net.variables[role, KIND]["mask"] for role in ROLES}
    if params.regularization == "l1":
        value, slopes = sum(np.abs(w).sum() for w in left.values()), {role: np.sign(w) for role, w in left.items()}
    else:
        value, slopes = sum((w**2).sum() for w in left.values()), {role: 2 * w for role, w in left.items()}
    factor = params.regularization_weight
    return Term(float(factor * value), by_weight={role: factor * slope for role, slope in slopes.items()})


def _stays(net: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the neurons that nothing reads."""
    read = (net.variables[ROLES[1], KIND]["mask"] > 0).any(1)
    if not net.variables[ROLES[1], KIND]["mask"].all():
        weights = {
            "fc1.weight": weights["fc1.weight"][:, read],
            "fc1.bias": weights["fc1.bias"][read],
            "fc2.weight": weights["fc2.weight"][read],
            "fc2.bias": weights["fc2.bias"],
        }
    return weights


REFERENCE = AlgorithmReference(
    begins=_begins,
    loss=_loss,
    forwards={KIND: masked},
    vjps={KIND: lambda transform, x, variables, g: (g * variables["mask"], {})},
    stays=_stays,
)
