"""weight_clustering and ecsq, with every value compared with every level."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.references.reference import AlgorithmReference

ROLES = ("fc1.weight", "fc2.weight")
Found = tuple[np.ndarray, np.ndarray]  # centroids, code of each value


def _lloyd(values: np.ndarray, start: np.ndarray) -> Found:
    centroids = start
    while True:
        code = np.argmin(np.abs(values[:, None] - centroids), axis=1)
        assert len(set(code)) == len(centroids), "choose a row in which no cluster becomes empty"
        moved = np.array([values[code == k].mean() for k in range(len(centroids))])
        if np.array_equal(moved, centroids):
            return centroids, code + 1
        centroids = moved


def _clustered(algorithm: Any, books: list[tuple[np.ndarray, int]]) -> list[Found]:
    k = algorithm.params.clusters
    starts = {
        "linear": lambda x: x.min() + (x.max() - x.min()) * np.arange(k) / (k - 1),
        "density": lambda x: np.quantile(x, [(i + 0.5) / k for i in range(k)]),
    }
    return [_lloyd(x, starts[algorithm.params.initial](x)) for x, _ in books]


def _lagrangian(x: np.ndarray, zeros: int, levels: int, factor: float) -> tuple[Found, float]:
    """The code book, and bits in all."""
    halves = [levels // 2 // 2**i for i in range(9) if i == 0 or levels // 2 // 2**i >= 3]
    ends = [_by_turns(x, zeros, half, factor) for half in halves]
    _, code, table, half = min(ends, key=lambda end: end[0])
    return _ascending(table, code, half), _bits(code == half, code, zeros)


def _by_turns(x: np.ndarray, zeros: int, half: int, factor: float) -> tuple[float, np.ndarray, np.ndarray, int]:
    table = np.linspace(-1, 1, 2 * half + 1) * np.abs(x).max()
    code, last = np.argmin(np.abs(x[:, None] - table), axis=1), np.inf
    for _ in range(100):
        counts = np.array([np.sum(code == k) for k in range(table.size)])
        table = np.array([x[code == k].mean() if counts[k] else table[k] for k in range(table.size)])
        table[half] = 0
        counts[half] += zeros
        bits = np.array([-np.log2(n / (x.size + zeros)) if n else np.inf for n in counts])
        cost = np.where(np.isinf(bits), np.inf, (x[:, None] - table) ** 2 + factor * np.minimum(bits, 99))
        code = np.argmin(cost, axis=1)
        before, last = last, cost[np.arange(x.size), code].sum() + (factor * zeros * bits[half] if zeros else 0)
        if last >= before * (1 - 1e-4):
            break
    return last, code, table, half


def _uniform(x: np.ndarray, zeros: int, levels: int, step: float) -> tuple[Found, float]:
    half = levels // 2
    code = np.clip(np.round(x / step), -half, half).astype(int)
    table = np.array([x[code == k].mean() if np.any(code == k) else 0 for k in range(-half, half + 1)])
    return _ascending(table, code + half, half), _bits(code == 0, code, zeros)


def _ascending(table: np.ndarray, code: np.ndarray, zero: int) -> Found:
    used = sorted((table[k], k) for k in set(code) if k != zero)
    number = {k: 1 + n for n, (_, k) in enumerate(used)} | {zero: 0}
    return np.array([value for value, _ in used]), np.array([number[k] for k in code])


def _bits(is_zero: np.ndarray, code: np.ndarray, zeros: int) -> float:
    counts = [np.sum(code == k) for k in set(code[~is_zero])] + [np.sum(is_zero) + zeros]
    return -sum(n * np.log2(n / sum(counts)) for n in counts if n)


def _constrained(algorithm: Any, books: list[tuple[np.ndarray, int]]) -> list[Found]:
    params = algorithm.params
    if params.method == "uniform":
        return _searched(params, books, _uniform)
    ends = [_searched(params, books, _lagrangian)]
    if params.lagrangian is None:
        ends.append(_searched(params, books, _uniform))
    return min(
        ends,
        key=lambda found: sum(
            np.sum((x - np.append(0, centroids)[codes]) ** 2) for (x, _), (centroids, codes) in zip(books, found, strict=True)
        ),
    )


def _searched(params: Any, books: list[tuple[np.ndarray, int]], search: Any) -> list[Found]:
    size = sum(x.size + zeros for x, zeros in books)

    def at(argument: float) -> tuple[list[Found], float]:
        found = [search(x, zeros, params.levels, argument) for x, zeros in books]
        return [book for book, _ in found], sum(bits for _, bits in found) / size

    if params.lagrangian is not None:
        return at(params.lagrangian)[0]
    unit = float(np.mean([np.mean(x**2) for x, _ in books]))
    lowest = 0.0
    if search is _uniform:
        unit = lowest = max(np.abs(x).max() for x, _ in books) / (params.levels // 2)
    if at(lowest)[1] <= params.target_bits:
        return at(lowest)[0]
    high = unit
    while at(high)[1] > params.target_bits:
        high *= 4
    low = high / 4
    while low > lowest and at(low)[1] <= params.target_bits:
        high, low = low, low / 4
    low = max(low, lowest)
    for _ in range(20):
        middle = np.sqrt(low * high)
        bits = at(middle)[1]
        low, high = (middle, high) if bits > params.target_bits else (low, middle)
        if params.target_bits * 0.995 <= bits <= params.target_bits:
            break
    return at(high)[0]


def _begins(search: Any) -> Any:
    def begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
        if step is not None or epoch != (algorithm.params.start_epoch or -1):
            return
        weight_after_earlier_edits = []
        for role in ROLES:
            masks = [net.variables[role, e.transform.kind]["mask"] for e in net.edits[role] if e.transform.kind == "mask"]
            weight_after_earlier_edits.append(net.weights[role] * (masks[0] if masks else 1))
        nonzero = [w[w != 0].astype(np.float64) for w in weight_after_earlier_edits]
        zeros = [int(np.sum(w == 0)) for w in weight_after_earlier_edits]
        if algorithm.params.code_books == "network":
            centroids, codes = search(algorithm, [(np.concatenate(nonzero), sum(zeros))])[0]
            parts = np.split(codes, [nonzero[0].size])
            found = [_ascending(np.concatenate([[0], centroids]), part, 0) for part in parts]
        else:
            found = search(algorithm, list(zip(nonzero, zeros, strict=True)))
        for role, w, (centroids, codes) in zip(ROLES, weight_after_earlier_edits, found, strict=True):
            variables = net.variables[role, "code_book"]
            variables["codes"] = np.zeros(w.shape, np.int32)
            variables["codes"][w != 0] = codes
            variables["centroids"] = np.zeros_like(variables["centroids"])
            variables["centroids"][: centroids.size] = centroids

    return begins


def _forward(transform: Any, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    y = np.zeros_like(x)
    for at, code in np.ndenumerate(variables["codes"]):
        if x[at] != 0 and code != 0:
            y[at] = x[at] if code < 0 else variables["centroids"][code - 1]
    return y


def _vjp(transform: Any, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    codes = variables["codes"]
    alive = (codes > 0) & (x != 0)
    sums = [np.sum(g[alive & (codes == k + 1)]) for k in range(variables["centroids"].size)]
    return g * (codes < 0), {"centroids": np.array(sums, np.float32)}


CLUSTERING = AlgorithmReference(begins=_begins(_clustered), forwards={"code_book": _forward}, vjps={"code_book": _vjp})
ECSQ = AlgorithmReference(begins=_begins(_constrained), forwards={"code_book": _forward}, vjps={"code_book": _vjp})
