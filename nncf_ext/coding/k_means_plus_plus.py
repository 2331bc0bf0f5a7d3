"""The start of k-means that spreads the first means (k-means++, Arthur & Vassilvitskii 2007)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def spread(cost: np.ndarray, cost_of: Callable[[int], np.ndarray], count: int, rng: np.random.Generator) -> list[int]:
    """The numbers of `count` points, each drawn with a probability in proportion to what it costs beside those before it; fewer
    where none costs anything any more.

    cost: (points,), of the first draw. cost_of(i): (points,), what each point costs where point i is a mean.
    """
    found: list[int] = []
    while len(found) < count:
        total = np.cumsum(cost)
        if not total[-1] > 0:
            break
        drawn = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        found.append(min(drawn, len(cost) - 1))
        own = cost_of(found[-1])
        cost = own if len(found) == 1 else np.minimum(cost, own)
    return found
