"""What a packed file holds, tensor by tensor."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from nncf_ext.packed.reader import Packed
from nncf_ext.text_table import TextTable


def describe_packed(path: Path) -> TextTable:
    """A line per tensor and one for the file. bound: bytes that no code of its elements, each by itself, goes below, with what
    tells them (code book, scales)."""
    packed = Packed(path)
    packed.expect_within_limit()
    columns = ("tensor", "type", "shape", "codec", "zeros", "bits per element", "bytes", "bound")
    lines, elements, bound = [], 0, 0.0
    for name in packed:
        array, size, least = packed.bits(name), packed.stored_bytes(name), packed.bound_bytes(name)
        count = math.prod(array.shape)
        zeros = f"{1 - np.count_nonzero(array) / count:.1%}" if count else ""
        bits = f"{8 * size / count:.3f}" if count else ""
        shape = " x ".join(map(str, array.shape))
        lines.append((name, packed.dtype(name), shape, packed.codec(name), zeros, bits, f"{size:,}", f"{least:,.0f}"))
        elements, bound = elements + count, bound + least
    size = path.stat().st_size
    total = ("file", "", f"{elements:,}", "", "", f"{8 * size / max(elements, 1):.3f}", f"{size:,}", f"{bound:,.0f}")
    return TextTable(str(path), lines, columns, total=total)
