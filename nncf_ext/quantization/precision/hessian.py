"""Mean second derivatives of a loss by the entries of each weight: traces of the blocks of its Hessian, by Hutchinson's method.

For a random v of independent signs, E[v_i . (H v)_i] is the trace of the block H_ii: one product with the Hessian of all weights
together serves every one of them (Yao et al. 2020, "PyHessian", section 3; Dong et al. 2020, "HAWQ-V2", eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

# (batch, signs by weight) -> H v by weight
Products = Callable[[Any, Sequence[np.ndarray]], Sequence[np.ndarray]]


def mean_traces(
    products: Products,
    shapes: Sequence[tuple[int, ...]],
    batches: Sequence[tuple[Any, int]],
    tolerance: float,
    rounds: Iterable[int],
    seed: int = 0,
) -> np.ndarray:
    """Trace over number of entries of each weight's Hessian block, of the loss averaged over the samples of all batches.

    batches: each with its number of samples. Every round draws new signs and goes on to the next batch. It stops with `rounds`,
    or, when every batch has had its turn, as soon as a round changes the sum over all weights by less than `tolerance` of it.
    """
    rng = np.random.default_rng(seed)
    total, samples = np.zeros(len(shapes)), 0
    mean = total
    for index in rounds:
        batch, size = batches[index % len(batches)]
        signs = [rng.integers(0, 2, shape, np.int8) * 2 - 1 for shape in shapes]
        found = products(batch, signs)
        traces = [np.vdot(hv, v.astype(hv.dtype)) / max(v.size, 1) for hv, v in zip(found, signs, strict=True)]
        before = mean.sum()
        total, samples = total + size * np.array(traces, np.float64), samples + size
        mean = total / samples
        if index + 1 >= len(batches) and index > 0 and abs(mean.sum() - before) <= tolerance * abs(before):
            break
    return mean
