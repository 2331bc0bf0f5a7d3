"""The batches of the contract's training."""

from __future__ import annotations

import numpy as np


def data(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(100 + batch)
    return (rng.integers(-8, 9, (8, 6)) / 8).astype(np.float32), (rng.integers(-8, 9, (8, 3)) / 4).astype(np.float32)
