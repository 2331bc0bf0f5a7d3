from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.references.reference import AlgorithmReference, Forward, Term, as_it_is, softmax


def _role(scope: str) -> str:
    return scope.rpartition("}")[2].removeprefix("(?i)")


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    term = _of_outputs(algorithm, forward)
    for pair in algorithm.features:
        role, target = _role(pair.student), forward.of_teacher[_role(pair.teacher or pair.student)]
        term = _with_feature(term, net, pair, role, forward.tensors[role], target)
    return term


def _with_feature(term: Term, net: Any, pair: Any, role: str, x: np.ndarray, target: np.ndarray) -> Term:
    """Of tensors with samples as rows. mse, with y = x @ P: dx = 2 (y - t) @ P.T / size, dP = x.T @ 2 (y - t) / size.
    attention, where there is one position only, which makes the whole map: no difference."""
    if pair.loss == "attention":
        return term
    projection = net.variables[role, "feature"].get("projection")
    y = x if projection is None else x @ projection
    g = pair.weight * 2 * (y - target) / y.size
    by_variable = {} if projection is None else {(role, "feature", "projection"): x.T @ g}
    return Term(
        term.value + pair.weight * float(np.mean((y - target) ** 2)),
        term.by_output,
        {**term.by_tensor, role: g if projection is None else g @ projection.T},
        {},
        {**term.by_variable, **by_variable},
    )


def _looks_on(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    return g, {}


def _of_outputs(algorithm: Any, forward: Forward) -> Term:
    out, target, scale = forward.out, forward.teacher, algorithm.scale
    if algorithm.task_weight is not None:
        scale = 1 - algorithm.task_weight
    if algorithm.type == "mse":
        return Term(scale * float(np.mean((out - target) ** 2)), scale * 2 * (out - target) / out.size)
    t = algorithm.temperature
    p, q = softmax(target / t), softmax(out / t)
    entropy = np.sum(p * np.log(p), -1) if algorithm.type == "kl" else 0
    return Term(scale * t**2 * float(np.mean(entropy - np.sum(p * np.log(q), -1))), scale * t * (q - p) / len(out))


REFERENCE = AlgorithmReference(loss=_loss, forwards={"feature": as_it_is}, vjps={"feature": _looks_on})
