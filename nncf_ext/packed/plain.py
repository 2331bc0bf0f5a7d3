"""The tensors of a plain model in a packed file, those of quantizers as integers and their scales."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from nncf_ext import reference
from nncf_ext.edits import Edit
from nncf_ext.graph import Graph
from nncf_ext.packed.writer import PackedWriter, Scaled


def packed_model(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    quantized: Mapping[Edit, Mapping[str, np.ndarray]],
    graph: Graph,
    framework: str,
) -> None:
    """quantized: the quantizers with their variables, of which those at parameters are looked at."""
    scaled: dict[str, Scaled] = {}
    for edit, variables in quantized.items():
        for site in edit.sites if edit.site.is_parameter else ():
            parameter = graph[site.node].parameter(site.slot)
            if parameter is not None and parameter.name in tensors:
                found = _as_integers(edit, variables, tensors[parameter.name])
                if found is not None:
                    scaled[parameter.name] = found
    with PackedWriter(path) as file:
        for name, array in tensors.items():
            file.add(name, scaled.get(name, array))
        file.metadata = {"source": framework}


def _as_integers(edit: Edit, variables: Mapping[str, np.ndarray], values: np.ndarray) -> Scaled | None:
    """The same values, bit for bit but for -0.0; None where they are no whole numbers of steps."""
    step = np.asarray(edit.transform.grid(reference, variables).step, np.float32)  # type: ignore[attr-defined]
    if step.ndim not in (0, values.ndim) or any(n not in (1, m) for n, m in zip(step.shape, values.shape, strict=False)):
        return None
    if 8 * step.size > values.size:
        return None  # a step for every few values: a code book is shorter
    codes = np.round(values / step)
    if values.dtype != np.float32 or not (np.abs(codes) <= 128).all():
        return None
    codes = codes.astype(np.int8 if codes.max(initial=0) < 128 and codes.min(initial=0) >= -128 else np.int16)
    return Scaled(codes, step) if (codes.astype(np.float32) * step == values).all() else None
