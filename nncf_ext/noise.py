"""Noise that is the same in every process and framework, and cheap.

Fresh random numbers for every weight in every step cost more than the training step's own passes over the weights. So the noise
is a fixed table, and a step draws only which of its rows each stretch of weights gets. The draw is a counter-based generator's
(Salmon et al. 2011) at the step's number: it has no state to save, to share between processes, or to depend on their number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

ROWS, WIDTH = 1024, 256
SEED = 0x5EED


@functools.cache
def table() -> np.ndarray:
    """(ROWS, WIDTH), float32. Every column has the ROWS quantiles of the logistic distribution, logit((k + 1/2) / ROWS), in an
    order of its own: over the steps each weight sees the whole distribution, between -7.6 and 7.6."""
    u = (np.arange(ROWS) + 0.5) / ROWS
    bits = np.random.Philox(key=SEED, counter=(2**64 - 1) << 192).random_raw(ROWS * WIDTH).reshape(ROWS, WIDTH)
    values = np.log(u / (1 - u)).astype(np.float32)[np.argsort(bits, axis=0, kind="stable")]
    values.setflags(write=False)
    return values


@functools.cache
def normal_table() -> np.ndarray:
    """The same with the quantiles of the standard normal distribution, between -3.3 and 3.3, scaled to variance 1."""
    from scipy.special import expit, ndtri

    values = ndtri(expit(table().astype(np.float64)))
    values = (values / values[:, :1].std()).astype(np.float32)
    values.setflags(write=False)
    return values


def rows_of(size: int) -> int:
    """How many rows of the table `size` elements take."""
    return -(-size // WIDTH)


def draw(step: int, sizes: Sequence[int]) -> list[np.ndarray]:
    """For tensors of these sizes, one after the other: the rows that make their noise in `step` (int32, `rows_of(size)` each)."""
    counts = [rows_of(size) for size in sizes]
    bits = np.random.Philox(key=SEED, counter=step << 192).random_raw(sum(counts))
    rows = (bits >> np.uint64(64 - ROWS.bit_length() + 1)).astype(np.int32)
    return np.split(rows, np.cumsum(counts)[:-1])


def normal(xp: Any, rows: Any, shape: tuple[int, ...]) -> Any:
    """As `logistic`, normally distributed."""
    return xp.reshape(xp.rows_joined(xp.constant(normal_table, rows), rows, math.prod(shape)), shape)


def logistic(xp: Any, rows: Any, shape: tuple[int, ...]) -> Any:
    """The noise of a tensor of `shape`, in C order: the rows of the table side by side."""
    return xp.reshape(xp.rows_joined(xp.constant(table, rows), rows, math.prod(shape)), shape)
