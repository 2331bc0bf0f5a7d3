from __future__ import annotations

from typing import Any

import numpy as np

from nncf_ext import reference as xp
from tests.contract.references.reference import AlgorithmReference, Forward, Term


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    out, target, scale = forward.out, forward.teacher, algorithm.scale
    if algorithm.task_weight is not None:
        scale = 1 - algorithm.task_weight
    if algorithm.type == "mse":
        return Term(scale * float(np.mean((out - target) ** 2)), scale * 2 * (out - target) / out.size)
    t = algorithm.temperature
    p, q = xp.softmax(target / t), xp.softmax(out / t)
    entropy = np.sum(p * np.log(p), -1) if algorithm.type == "kl" else 0
    return Term(scale * t**2 * float(np.mean(entropy - np.sum(p * np.log(q), -1))), scale * t * (q - p) / len(out))


REFERENCE = AlgorithmReference(loss=_loss)
