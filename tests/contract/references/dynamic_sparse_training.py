from __future__ import annotations

import math
from typing import Any

import numpy as np

from nncf_ext.sparsity.connections import Structure, erdos_renyi_densities, random_scores
from tests.contract.references.reference import STEPS, AlgorithmReference, Forward, Term, masked

CONNECTIONS, TOP_KAST, N_OF_M = "connection_mask", "forward_backward_mask", "n_of_m_mask"
ROLES = ("fc1.weight", "fc2.weight")


def _units(algorithm: Any, outputs: int, inputs: int) -> list[list[list[tuple[int, int]]]]:
    """Groups of units of (output, input)."""
    params = algorithm.params
    rows = [[(o, i) for i in range(inputs)] for o in range(outputs)]
    if params.ratio is not None:
        m = params.ratio[1]
        return [[[at] for at in row[start : start + m]] for row in rows for start in range(0, inputs, m)]
    if params.structure == "constant_fan_in":
        return [[[at] for at in row] for row in rows]
    if params.structure == "channel":
        return [rows]
    if params.structure == "block":
        r, c = params.block
        corners = [(o, i) for o in range(0, outputs, r) for i in range(0, inputs, c)]
        return [[[(o + a, i + b) for a in range(r) for b in range(c)] for o, i in corners]]
    return [[[at] for row in rows for at in row]]


def _densities(net: Any, algorithm: Any, level: float) -> list[float]:
    params = algorithm.params
    if isinstance(params.distribution, dict):
        return [1 - params.distribution.get("{re}" + role[:3], level) for role in ROLES]
    if params.distribution == "uniform" or params.ratio is not None:
        return [1 - level] * 2
    return erdos_renyi_densities([net.weights[role].shape for role in ROLES], level)


def _kept(density: float, units: int) -> int:
    return units - math.floor((1 - density) * units + 1e-9)


def _connect(net: Any, role: str, mask: np.ndarray) -> None:
    """mask: (outputs, inputs)."""
    variables = net.variables[role, CONNECTIONS]
    net.weights[role] = net.weights[role] * (mask.T * variables["mask"])
    variables["mask"] = mask.T.astype(np.float32)


def _share(algorithm: Any, step: int) -> float:
    params = algorithm.params
    if params.end is None or params.method == "set":
        return params.drop_fraction
    return params.drop_fraction * (1 + math.cos(math.pi * min(step / params.end, 1))) / 2


def _move(net: Any, algorithm: Any, step: int) -> None:
    params = algorithm.params
    level = params.level
    if params.method == "granet":
        level += (params.sparsity_init - level) * (1 - min(step / params.end, 1)) ** 3
    for index, (role, density) in enumerate(zip(ROLES, _densities(net, algorithm, level), strict=True)):
        variables = net.variables[role, CONNECTIONS]
        weight, present = abs(net.weights[role].T), variables["mask"].T
        score = abs(net.arriving[role, CONNECTIONS].T)
        groups = _units(algorithm, *weight.shape)
        if params.method == "set":
            kind = "n:m" if params.ratio else params.structure
            whole = Structure(kind, weight.shape, weight.shape, 0, 1, params.block, params.ratio[1] if params.ratio else 0)
            drawn = random_scores(step, index, whole)
        numbered = [(g, u, unit) for g, group in enumerate(groups) for u, unit in enumerate(group)]
        here = [entry for entry in numbered if present[entry[2][0]]]
        after = len(here) if params.method != "granet" else _kept(density, len(numbered))
        moved = int(_share(algorithm, step) * after)
        by_size = sorted(here, key=lambda entry: sum(weight[at] for at in entry[2]))
        kept = {(g, u) for g, u, _ in by_size[len(here) - after + moved :]}
        mask = np.zeros_like(present)
        for g, group in enumerate(groups):
            before = sum(bool(present[unit[0]]) for unit in group)
            stay = [u for u in range(len(group)) if (g, u) in kept]
            wanted = moved if len(groups) == 1 else before - len(stay)
            worth = [sum(score[at] for at in unit) for unit in group] if params.method != "set" else list(drawn[g])
            free = [(-worth[u], -u if len(groups) == 1 else u, u) for u in range(len(group)) if u not in stay]
            order = [u for _, _, u in sorted(free)]
            for u in [*stay, *order[:wanted]]:
                for at in group[u]:
                    mask[at] = 1
        _connect(net, role, mask)


def _largest(net: Any, algorithm: Any, role: str, count: int) -> np.ndarray:
    weight = abs(net.weights[role].T)
    (group,) = _units(algorithm, *weight.shape)
    mask = np.zeros_like(weight)
    for unit in sorted(group, key=lambda unit: -sum(weight[at] for at in unit))[:count]:
        for at in unit:
            mask[at] = 1
    return mask


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    params = algorithm.params
    units = [len(_units(algorithm, *net.weights[role].T.shape)[0]) for role in ROLES]
    counts = [_kept(d, n) for n, d in zip(units, _densities(net, algorithm, params.level), strict=True)]
    if epoch < 0 and params.method not in ("ac_dc", "top_kast", "sr_ste"):
        for role in ROLES:
            mask = net.variables[role, CONNECTIONS]["mask"]
            connected = np.maximum(mask.sum(0), 1)
            gain = np.sqrt(len(mask) / connected) if params.sparse_initialization else 1.0
            net.weights[role] = net.weights[role] * mask * gain
    if params.method == "top_kast" and (epoch < 0 or (step is not None and 0 < epoch * STEPS + step <= params.end)):
        for role, count, size in zip(ROLES, counts, units, strict=True):
            variables = net.variables[role, TOP_KAST]
            variables["mask"] = _largest(net, algorithm, role, count).T
            variables["backward"] = _largest(net, algorithm, role, min(size, count + round(params.extra_density * size))).T
    if params.method == "ac_dc" and step is None and epoch >= 0:
        cycle = params.compressed_epochs + params.decompressed_epochs
        phase = (epoch - params.warmup_epochs) % cycle
        is_sparse = epoch >= params.final_epoch or (epoch >= params.warmup_epochs and phase < params.compressed_epochs)
        for role, count in zip(ROLES, counts, strict=True):
            was_sparse = not net.variables[role, CONNECTIONS]["mask"].all()
            if is_sparse != was_sparse:
                _connect(net, role, _largest(net, algorithm, role, count if is_sparse else net.weights[role].size))


def _ends(net: Any, algorithm: Any, epoch: int, step: int) -> None:
    params, now = algorithm.params, epoch * STEPS + step
    is_due = now > 0 and now % params.update_interval == 0 and (params.end is None or now <= params.end)
    if params.method in ("set", "rigl", "granet") and is_due:
        _move(net, algorithm, now)


def _n_of_m_forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    return x * n_of_m_by_hand(x, transform.n, transform.m)


def n_of_m_by_hand(x: np.ndarray, n: int, m: int) -> np.ndarray:
    mask = np.zeros_like(x)
    for output in range(x.shape[1]):
        for start in range(0, x.shape[0], m):
            for i in sorted(range(start, start + m), key=lambda i: -abs(x[i, output]))[:n]:
                mask[i, output] = 1
    return mask


def _loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    params, value, by_weight = algorithm.params, 0.0, {}
    for role in ROLES:
        w = net.weights[role]
        if params.method == "top_kast":
            act, back = (net.variables[role, TOP_KAST][name].astype(np.float32) for name in ("mask", "backward"))
            factor = params.regularization * (act + (back - act) * act.size / act.sum())
        elif params.method == "sr_ste":
            factor = params.decay / 2 * (1 - n_of_m_by_hand(w, *params.ratio))
        else:
            return Term(0.0)
        value += float(np.sum(factor * w**2))
        by_weight[role] = 2 * factor * w
    return Term(value, by_weight=by_weight)


REFERENCE = AlgorithmReference(
    begins=_begins,
    ends=_ends,
    loss=_loss,
    forwards={CONNECTIONS: masked, TOP_KAST: masked, N_OF_M: _n_of_m_forward},
    vjps={
        CONNECTIONS: lambda transform, x, variables, g: (g * variables["mask"], {}),
        TOP_KAST: lambda transform, x, variables, g: (g * variables["backward"], {}),
        N_OF_M: lambda transform, x, variables, g: (g, {}),
    },
)
