from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nncf_ext import noise, numpy_xp
from nncf_ext.algorithms.l0_sparsity import HardConcreteGate
from nncf_ext.algorithms.variational_dropout import WeightNoise
from tests.contract.references.reference import STEPS, AlgorithmReference, Forward, Term, sigmoid

ROLES = ("fc1.weight", "fc2.weight")
LOW, HIGH, BETA = -0.1, 1.1, 2 / 3
K1, K2, K3 = 0.63576, 1.87320, 1.48695


def _begins(kind: str) -> Callable[[Any, Any, int, int | None], None]:
    def begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
        own = [net.variables[role, kind] for role in ROLES]
        if (epoch < 0 or step is not None) and "rows" in own[0]:
            sizes = [net.weights[role].size for role in ROLES]
            for variables, rows in zip(own, noise.draw(max(epoch, 0) * STEPS + (step or 0), sizes), strict=True):
                variables["rows"] = rows
        params, now = algorithm.params, max(epoch, 0)
        rising = np.clip((now - params.warmup_epochs + 1) / (params.ramp_epochs + 1), 0, 1) if now >= params.warmup_epochs else 0
        for variables in own:
            variables["factor"] = np.float32(params.weight * rising)

    return begins


def _multipliers(net: Any, kind: str) -> dict[str, float]:
    return {r: next(e.lr_multiplier for e in net.edits[r] if e.transform.kind == kind) for r in ROLES}


# soft_threshold: y = sign(x) * relu(|x| - sigmoid(s))


def _soft_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - sigmoid(variables["threshold"]), 0)


def _soft_vjp(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    s = sigmoid(variables["threshold"])
    alive = np.abs(x) > s
    return g * alive, {"threshold": -np.sum(g * np.sign(x) * alive) * s * (1 - s)}


def _soft_loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    kind, factors = "soft_threshold", _multipliers(net, "soft_threshold")
    s = {role: net.variables[role, kind]["threshold"] for role in ROLES}
    factor = net.variables[ROLES[0], kind]["factor"]
    return Term(
        float(factor * sum(float(v.sum()) ** 2 for v in s.values()) / 2),
        by_variable={(role, kind, "threshold"): factors[role] * factor * v for role, v in s.items()},
    )


# l0_sparsity: y = x * clip(LOW + (HIGH - LOW) * sigmoid((scores + noise) / BETA), 0, 1)


def laid_noise(draw: Any, rows: np.ndarray, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    """The table's noise in the order that the weight has in the framework."""
    return draw(numpy_xp, rows, shape[::-1]).T if transposed else draw(numpy_xp, rows, shape)


class LaidGate(HardConcreteGate):
    transposed: bool

    def laid_noise(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return laid_noise(noise.logistic, rows, shape, self.transposed)

    def gate(self, variables: Any, training: bool) -> tuple[np.ndarray, np.ndarray]:
        scores = variables["scores"]
        s = sigmoid((scores + self.laid_noise(variables["rows"], scores.shape)) / BETA if training else scores)
        stretched = LOW + (HIGH - LOW) * s
        slope = (HIGH - LOW) * s * (1 - s) / BETA * ((stretched > 0) & (stretched < 1))
        return np.minimum(np.maximum(stretched, 0), 1), slope


def _gate_forward(transform: LaidGate, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return x * transform.gate(variables, training)[0]


def _gate_vjp(transform: LaidGate, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    gate, slope = transform.gate(variables, True)
    return g * gate, {"scores": g * x * slope}


def _gate_loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    kind, factors = "hard_concrete_gate", _multipliers(net, "hard_concrete_gate")
    p = {role: sigmoid(net.variables[role, kind]["scores"] + 1.5985969) for role in ROLES}
    factor = net.variables[ROLES[0], kind]["factor"] / sum(v.size for v in p.values())
    return Term(
        float(factor * sum(v.sum() for v in p.values())),
        by_variable={(role, kind, "scores"): factors[role] * factor * v * (1 - v) for role, v in p.items()},
    )


# variational_dropout: y = x + exp(log_variance / 2) * eps


class LaidNoise(WeightNoise):
    transposed: bool

    def laid_noise(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return laid_noise(noise.normal, rows, shape, self.transposed)


def _noise_forward(transform: LaidNoise, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    """In inference, weights of which log(sigma^2 / w^2) has reached the threshold are zero."""
    log_variance = variables["log_variance"]
    if training:
        return x + np.exp(log_variance / 2) * transform.laid_noise(variables["rows"], x.shape)
    return x * (log_variance - np.log(x**2 + 1e-8) < transform.threshold)


def _noise_vjp(transform: LaidNoise, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    log_variance = variables["log_variance"]
    eps = transform.laid_noise(variables["rows"], x.shape)
    return g, {"log_variance": g * np.exp(log_variance / 2) * eps / 2}


def _noise_loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    kind, factors = "weight_noise", _multipliers(net, "weight_noise")
    value, by_weight, by_variable = 0.0, {}, {}
    count = sum(net.weights[role].size for role in ROLES)
    factor = net.variables[ROLES[0], kind]["factor"] / count
    for role in ROLES:
        w = net.weights[role]
        raw = net.variables[role, kind]["log_variance"] - np.log(w**2 + 1e-8)
        a = np.clip(raw, -8, 8)
        s = sigmoid(K2 + K3 * a)
        value += float(factor * np.sum(K1 - K1 * s + np.log1p(np.exp(-a)) / 2))
        slope = factor * (-K1 * K3 * s * (1 - s) - sigmoid(-a) / 2) * (raw == a)
        by_variable[role, kind, "log_variance"] = factors[role] * slope
        by_weight[role] = -slope * 2 * w / (w**2 + 1e-8)
    return Term(value, by_weight=by_weight, by_variable=by_variable)


def _laid(laid: Any) -> Any:
    return lambda transform, role, transposed: laid(**transform.model_dump(), transposed=transposed)


SOFT_THRESHOLD = AlgorithmReference(
    begins=_begins("soft_threshold"),
    loss=_soft_loss,
    forwards={"soft_threshold": _soft_forward},
    vjps={"soft_threshold": _soft_vjp},
)
L0 = AlgorithmReference(
    begins=_begins("hard_concrete_gate"),
    loss=_gate_loss,
    forwards={"hard_concrete_gate": _gate_forward},
    vjps={"hard_concrete_gate": _gate_vjp},
    in_layout={"hard_concrete_gate": _laid(LaidGate)},
)
VARIATIONAL_DROPOUT = AlgorithmReference(
    begins=_begins("weight_noise"),
    loss=_noise_loss,
    forwards={"weight_noise": _noise_forward},
    vjps={"weight_noise": _noise_vjp},
    in_layout={"weight_noise": _laid(LaidNoise)},
)
