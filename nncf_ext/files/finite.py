"""Numbers that are none: they are found where they enter, with the name of what has them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def not_finite(array: np.ndarray, infinite: bool = True) -> str | None:
    """What of `array` is no finite number, in words; None where all are. infinite: whether infinities count."""
    if array.dtype.kind not in "fcV":
        return None
    values = array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.itemsize == 1 else array  # ml_dtypes' types
    nan = int(np.isnan(values).sum())
    inf = int(np.isinf(values).sum()) if infinite else 0
    if not nan + inf:
        return None
    kinds = " and ".join(kind for kind, count in (("NaN", nan), ("infinite", inf)) if count)
    return f"{nan + inf:,} of {values.size:,} numbers are {kinds}"


def refuse_nan(tensors: Mapping[str, np.ndarray], what: str) -> None:
    """ValueError for the first of `tensors` with a NaN. Infinities pass: attention masks are made of them."""
    for name, array in tensors.items():
        problem = not_finite(array, infinite=False)
        if problem:
            raise ValueError(f"{what}: {name}: {problem}, expected a model whose training did not diverge")
