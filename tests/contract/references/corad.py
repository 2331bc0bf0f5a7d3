from __future__ import annotations

import math
from typing import Any

import numpy as np

from nncf_ext import noise
from nncf_ext.algorithms.corad import Gates
from tests.contract.references.learned_sparsity import laid_noise
from tests.contract.references.quantizers import levels_by_hand
from tests.contract.references.reference import STEPS, AlgorithmReference, Forward, Term, as_it_is, sigmoid, softmax

KIND, GATES = "shrinkage", "gates"
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
LN2 = math.log(2)


def _weights(net: Any) -> dict[str, np.ndarray]:
    return {role: net.weights[role] for role in ("fc1.weight", "fc2.weight")}


def _factor(term: Any, epoch: float) -> float:
    if term is None or epoch < term.warmup_epochs:
        return 0.0
    if term.schedule == "multistep":
        return term.weight * term.multistep_factors[sum(epoch >= step for step in term.multistep_steps)]
    if term.schedule == "constant":
        return term.weight
    x = min((epoch - term.warmup_epochs) / term.ramp_epochs, 1)
    return term.weight * (x if term.schedule == "linear" else 1 - (1 - x) ** 3)


def _factors(algorithm: Any, epoch: int, step: int) -> dict[str, np.float32]:
    known = algorithm.steps_per_epoch is not None or epoch > 0
    passed = epoch + (step / STEPS if known else 0)
    terms = {"regularization": algorithm.regularization, "distillation": algorithm.distillation}
    return {name: np.float32(_factor(term, passed)) for name, term in terms.items()}


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    if step is None:
        return
    settings, weights = algorithm.regularization, _weights(net)
    if settings.type == "l0":
        sizes = [weight.size for weight in weights.values()]
        for role, rows in zip(weights, noise.draw(epoch * STEPS + step, sizes), strict=True):
            net.variables[role, GATES] |= {"rows": rows, **_factors(algorithm, epoch, step)}
        return
    step_size = getattr(settings, "proximal_step", None) or 0
    factors = _factors(algorithm, epoch, step)
    count = sum(weight.size for weight in weights.values())
    for role, weight in weights.items():
        group = len(weight) if settings.type == "group_lasso" else 1
        threshold = np.float32(step_size * float(factors["regularization"]) * math.sqrt(group) / count)
        net.variables[role, KIND] = {**factors, "threshold": threshold}


def _ends(net: Any, algorithm: Any, epoch: int, step: int) -> None:
    settings = algorithm.regularization
    for role, weight in _weights(net).items() if settings.proximal_step is not None else ():
        threshold = net.variables[role, KIND]["threshold"]
        if settings.type == "group_lasso":  # channels are columns
            norms = np.linalg.norm(weight, axis=0)
            net.weights[role] = (weight * np.maximum(0, 1 - threshold / norms.clip(1e-12))).astype(np.float32)
        else:
            net.weights[role] = (np.sign(weight) * np.maximum(np.abs(weight) - threshold, 0)).astype(np.float32)


def _regularizer(net: Any, settings: Any) -> tuple[float, dict[str, np.ndarray], dict[Any, np.ndarray]]:
    """Its value, and its gradients by weights and by variables."""
    weights = _weights(net)
    count, delta = sum(weight.size for weight in weights.values()), settings.delta
    if settings.type == "l1":
        return sum(np.abs(w).sum() for w in weights.values()) / count, {r: np.sign(w) / count for r, w in weights.items()}, {}
    if settings.type == "entropy":
        value = sum(np.log2(1 + np.abs(w) / delta).sum() for w in weights.values()) / count
        return value, {r: np.sign(w) / LN2 / (delta + np.abs(w)) / count for r, w in weights.items()}, {}
    if settings.type == "group_lasso":
        norms = {role: np.linalg.norm(weight, axis=0) for role, weight in weights.items()}
        value = sum(math.sqrt(len(weights[role])) * n.sum() for role, n in norms.items()) / count
        return value, {r: math.sqrt(len(w)) * w / norms[r].clip(1e-12) / count for r, w in weights.items()}, {}
    if settings.type == "latency":  # operations: two for every weight
        value, by_weight = 0.0, {}
        for role, w in weights.items():
            r = np.sqrt((w**2).mean(0)).clip(1e-12)
            value += w.size / count * np.mean(r / (r + delta))
            by_weight[role] = w.size / count / w.shape[1] * delta / (r + delta) ** 2 * w / (len(w) * r)
        return value, by_weight, {}
    if settings.type == "l0":
        p = {role: sigmoid(net.variables[role, GATES]["gate"] - BETA * math.log(-LOW / HIGH)) for role in weights}
        multiplier = {role: edit.lr_multiplier for role in weights for edit in net.edits[role] if edit.transform.kind == GATES}
        by_gate = {(role, GATES, "gate"): multiplier[role] * q * (1 - q) / count for role, q in p.items()}
        return sum(q.sum() for q in p.values()) / count, {}, by_gate
    value, by_variable = 0.0, {}
    for role, weight in weights.items():
        (transform,) = [edit.transform for edit in net.edits[role] if edit.transform.kind == "quantizer"]
        lowest, highest = levels_by_hand(transform)
        scale, share = net.variables[role, "quantizer"]["scale"], (highest - lowest) / highest
        span = np.abs(scale) * share
        value += weight.size / count * np.mean(np.log2(1 + span / delta))
        slope = weight.size / count / scale.size / LN2 / (delta + span) * share * np.sign(scale)
        by_variable[role, "quantizer", "scale"] = slope
    return value, {}, by_variable


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    factors = net.variables["fc1.weight", GATES if algorithm.regularization.type == "l0" else KIND]
    settings, matching = algorithm.regularization, algorithm.distillation
    value, by_weight, by_variable = _regularizer(net, settings)
    strength = factors["regularization"]
    if settings.proximal_step is not None:
        by_weight = {}
    total, by_output = strength * value, np.zeros_like(forward.out)
    if matching is not None:
        t, gamma = matching.temperature, factors["distillation"]
        p, q = softmax(forward.teacher / t), softmax(forward.out / t)
        total += gamma * t**2 * float(np.mean(-np.sum(p * np.log(q), -1)))
        by_output = gamma * t * (q - p) / len(q)
    return Term(
        float(total),
        by_output,
        by_weight={role: strength * gradient for role, gradient in by_weight.items()},
        by_variable={at: strength * gradient for at, gradient in by_variable.items()},
    )


def _shrinkage(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    return g, {}


class Laid(Gates):
    """With the noise in the order that the weight has in the framework."""

    transposed: bool

    def laid_noise(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return laid_noise(noise.logistic, rows, shape, self.transposed)


def _in_layout(transform: Gates, role: str, transposed: bool) -> Laid:
    return Laid(**transform.model_dump(), transposed=transposed)


def _gated_forward(transform: Laid, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    gate = variables["gate"]
    s = sigmoid((gate + transform.laid_noise(variables["rows"], x.shape)) / BETA if training else gate)
    return x * np.clip(s * (HIGH - LOW) + LOW, 0, 1)


def _gated(transform: Laid, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    s = sigmoid((variables["gate"] + transform.laid_noise(variables["rows"], x.shape)) / BETA)
    stretched = s * (HIGH - LOW) + LOW
    inside = (stretched > 0) & (stretched < 1)
    return g * np.clip(stretched, 0, 1), {"gate": g * x * inside * (HIGH - LOW) * s * (1 - s) / BETA}


REFERENCE = AlgorithmReference(
    begins=_begins,
    ends=_ends,
    loss=_loss,
    forwards={KIND: as_it_is, GATES: _gated_forward},
    vjps={KIND: _shrinkage, GATES: _gated},
    in_layout={GATES: _in_layout},
)
