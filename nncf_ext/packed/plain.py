"""The tensors of a plain model in a packed file, those of quantizers as integers and their scales, product codes as codes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nncf_ext import numpy_xp
from nncf_ext.edits import Edit
from nncf_ext.encodings import Encoding, Grid, ProductCodes
from nncf_ext.graph import Graph
from nncf_ext.packed.coding import coded as shortest
from nncf_ext.packed.writer import PackedWriter, Product, Scaled


def packed_model(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    coded: Mapping[Edit, Mapping[str, np.ndarray]],
    graph: Graph,
    framework: str,
) -> None:
    """coded: edits with their variables, of which those at parameters are looked at."""
    shorter: dict[str, Scaled | Product] = {}
    for edit, variables in coded.items():
        for site in edit.sites:
            parameter = graph[site.node].parameter(site.slot)
            if parameter is not None and parameter.name in tensors:
                found = _shorter(edit.transform.encoded(numpy_xp, variables), tensors[parameter.name])
                if found is not None:
                    shorter[parameter.name] = found
    with PackedWriter(path) as file:
        for name, array in tensors.items():
            file.add(name, shorter.get(name, array))
        file.metadata = {"source": framework}


def _shorter(encoding: Encoding | None, values: np.ndarray) -> Scaled | Product | None:
    if isinstance(encoding, Grid):
        return _as_integers(encoding, values)
    return _as_codes(encoding, values) if isinstance(encoding, ProductCodes) else None


def _as_integers(grid: Grid, values: np.ndarray) -> Scaled | None:
    """The same values, bit for bit but for -0.0; None where they are no whole numbers of steps."""
    step = np.asarray(grid.step, np.float32)
    if step.ndim not in (0, values.ndim) or any(n not in (1, m) for n, m in zip(step.shape, values.shape, strict=False)):
        return None
    if 8 * step.size > values.size:
        return None  # a step for every few values: a code book is shorter
    codes = np.round(values / step)
    if values.dtype != np.float32 or not (np.abs(codes) <= 128).all():
        return None
    codes = codes.astype(np.int8 if codes.max(initial=0) < 128 and codes.min(initial=0) >= -128 else np.int16)
    return Scaled(codes, step) if (codes.astype(np.float32) * step == values).all() else None


def _as_codes(found: ProductCodes, values: np.ndarray) -> Product | None:
    """The same values, bit for bit but for -0.0; None where they are others, or no longer by themselves."""
    codebook, codes = found.codebook, found.codes
    if values.dtype != np.float32 or (codes < 0).any():
        return None
    kind = np.uint8 if codebook.shape[1] <= 1 << 8 else np.uint16
    product = Product(codebook, codes.astype(kind), values.shape, found.axis)
    if not (product.decoded() == values).all():
        product = replace(product, kept=values != 0)
    if not (product.decoded() == values).all():
        return None
    return product if sum(shortest(array).size for array in product.arrays.values()) < shortest(values).size else None
