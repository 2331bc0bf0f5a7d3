from __future__ import annotations

from typing import Any

import numpy as np

from nncf_ext import noise
from nncf_ext.algorithms.rb_sparsity import RandomMask
from tests.contract.references.learned_sparsity import laid_noise
from tests.contract.references.reference import STEPS, AlgorithmReference, Forward, Term, sigmoid

KIND = "rb_mask"


class Laid(RandomMask):
    """With the noise in the order that the weight has in the framework."""

    transposed: bool

    def laid_noise(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return laid_noise(noise.logistic, rows, shape, self.transposed)


def _in_layout(transform: RandomMask, role: str, transposed: bool) -> Laid:
    return Laid(**transform.model_dump(), transposed=transposed)


def _slope(score: np.ndarray) -> np.ndarray:
    return sigmoid(score) * (1 - sigmoid(score))


def _forward(transform: Laid, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    score = variables["scores"]
    return x * (score + (transform.laid_noise(variables["rows"], x.shape) if training else 0) > 0)


def _vjp(transform: Laid, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    noisy = variables["scores"] + transform.laid_noise(variables["rows"], x.shape)
    return g * (noisy > 0), {"scores": g * x * _slope(noisy)}


def _masked(net: Any) -> dict[str, dict[str, np.ndarray]]:
    """Variables by role, in the order of the layers."""
    return {role: net.variables[role, KIND] for role in ("fc1.weight", "fc2.weight") if (role, KIND) in net.variables}


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    masked, freeze_epoch = _masked(net), algorithm.params.sparsity_freeze_epoch
    if epoch > freeze_epoch or (epoch == freeze_epoch and step is not None):
        return
    if epoch < 0 or step is not None:
        sizes = [variables["scores"].size for variables in masked.values()]
        for variables, rows in zip(masked.values(), noise.draw(max(epoch, 0) * STEPS + (step or 0), sizes), strict=True):
            variables["rows"] = rows
    for variables in masked.values():
        if epoch == freeze_epoch:
            variables["scores"] = variables["scores"] + np.where(variables["scores"] > 0, 64, -64).astype(np.float32)
            variables["level"] = np.float32(-1)
        elif epoch < 0:
            variables["level"] = np.float32(algorithm.sparsity_init)
        elif step is None and algorithm.params.schedule != "adaptive":
            variables["level"] = np.float32(algorithm.level(epoch))
    if algorithm.params.schedule == "adaptive" and step is None and epoch >= 0:  # patience 1, from 0 on
        zeros = [np.mean(variables["scores"] <= 0) * variables["scores"].size for variables in masked.values()]
        reached = sum(zeros) / sum(variables["scores"].size for variables in masked.values())
        for variables in masked.values():
            if reached >= variables["level"] - 0.03:
                variables["level"] = np.float32(min(variables["level"] + 0.05, algorithm.params.sparsity_target))


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    masked = _masked(net)
    if any(variables["level"] < 0 for variables in masked.values()):
        return Term(0.0)
    scores = {role: variables["scores"] for role, variables in masked.items()}
    wanted = {role: 1 - variables["level"] for role, variables in masked.items()}
    factor = {role: edit.lr_multiplier for role in masked for edit in net.edits[role] if edit.transform.kind == KIND}
    if algorithm.params.sparsity_level_setting_mode == "global":
        total = sum(score.size for score in scores.values())
        off = sum(np.sum(s > 0) - wanted[role] * s.size for role, s in scores.items()) / total / 0.05
        by_score = {role: 2 * off / total / 0.05 * _slope(s) for role, s in scores.items()}
    else:
        each = {role: np.mean(s > 0) - wanted[role] for role, s in scores.items()}
        off = sum(abs(value) for value in each.values()) / 0.05
        by_score = {role: 2 * off / 0.05 * np.sign(each[role]) / s.size * _slope(s) for role, s in scores.items()}
    return Term(float(off**2), by_variable={(role, KIND, "scores"): factor[role] * g for role, g in by_score.items()})


REFERENCE = AlgorithmReference(
    begins=_begins, loss=_loss, forwards={KIND: _forward}, vjps={KIND: _vjp}, in_layout={KIND: _in_layout}
)
