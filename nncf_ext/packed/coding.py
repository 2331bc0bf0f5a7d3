"""From an array to the bytes that its record names, the shortest of several ways: and how long they are.

raw: as it is, or through zlib where that is shorter. book: a code book of the distinct bit patterns, and their numbers, entropy
coded. planes: the bytes of the elements, each place by itself, entropy coded where that helps. sparse: positions of what is not
zero, and that by itself, in one of the other ways.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nncf_ext.packed.layout import BITS, CHUNK, LONGEST_GAP, MOST_LEVELS, frequencies, model_of

_SAMPLE = 1 << 16


@dataclass
class Coded:
    """codec and details: of the record. parts: what stands in the file, in this order."""

    codec: str
    parts: list[bytes] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    values: Coded | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.parts)) + (0 if self.values is None else self.values.size)


def coded(array: np.ndarray, sparse: bool = True) -> Coded:
    """The shortest code of an array, whose elements are read in C order. sparse: whether zeros may be coded apart."""
    flat = array.reshape(-1)
    if flat.size == 0 or flat.dtype.itemsize not in BITS:
        return _raw(flat)
    bits = flat.view(BITS[flat.dtype.itemsize])
    book = _book(bits)
    found = _by_book(bits, *book) if book is not None else _planes(bits)
    if sparse and 0 < 2 * np.count_nonzero(bits) < bits.size:
        found = _sparse(bits, found.size) or found
    return found if found.size < flat.nbytes else _raw(flat)


def _raw(flat: np.ndarray) -> Coded:
    content = np.ascontiguousarray(flat).tobytes()
    if len(content) <= 1 << 20:
        packed = zlib.compress(content, 9)
        if len(packed) < len(content):
            return Coded("zlib", [packed])
    return Coded("raw", [content])


def chunks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def _book(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Distinct elements, ascending, and how often each is there; None where there are too many for a code book to pay."""
    most = min(MOST_LEVELS, max(bits.size // 8, 2))
    if np.unique(bits[:: max(bits.size // _SAMPLE, 1)][:_SAMPLE]).size > most:
        return None
    levels, counts = np.empty(0, bits.dtype), np.empty(0, np.int64)
    for part in chunks(bits.size):
        if bits.dtype.itemsize <= 2:
            tally = np.bincount(bits[part], minlength=1)
            new = np.flatnonzero(tally).astype(bits.dtype)
            number = tally[new]
        else:
            new, number = np.unique(bits[part], return_counts=True)
        joined = np.union1d(levels, new)
        if joined.size > most:
            return None
        total = np.zeros(joined.size, np.int64)
        total[np.searchsorted(joined, levels)] += counts
        total[np.searchsorted(joined, new)] += number
        levels, counts = joined, total
    return levels, counts


def _symbols(bits: np.ndarray, levels: np.ndarray) -> np.ndarray:
    if bits.dtype.itemsize <= 2:
        table = np.zeros(1 << (8 * bits.dtype.itemsize), np.int32)
        table[levels] = np.arange(levels.size)
        return table[bits]
    return np.searchsorted(levels, bits).astype(np.int32)


def entropy_bits(counts: np.ndarray) -> float:
    """n * H: the fewest bits for symbols with these counts, if each is coded by itself."""
    present = counts[counts > 0].astype(float)
    return float(-(present * np.log2(present / present.sum())).sum())


def _by_book(bits: np.ndarray, levels: np.ndarray, counts: np.ndarray) -> Coded:
    if levels.size == 1:
        return Coded("book", [levels.tobytes()])
    model = model_of(frequencies(counts))
    parts = [levels.astype(levels.dtype.newbyteorder("<")).tobytes(), frequencies(counts).tobytes()]
    return Coded("book", [*parts, *(_encoded(_symbols(bits[part], levels), model) for part in chunks(bits.size))])


def _sparse(bits: np.ndarray, shorter_than: int) -> Coded | None:
    """Where the numbers are that are not zero, as runs of zeros before each or as a bit for each element; and the numbers, coded
    by themselves. None where that takes `shorter_than` bytes or more."""
    numbers, runs = [], []
    for part in chunks(bits.size):
        own = bits[part]
        at = np.flatnonzero(own)
        between = np.diff(at, prepend=-1) - 1
        fillers = between // LONGEST_GAP
        run = np.full(at.size + int(fillers.sum()), LONGEST_GAP, np.int32)
        run[np.cumsum(fillers + 1) - 1] = between % LONGEST_GAP
        runs.append(run)
        numbers.append(own[at])
    count = sum(number.size for number in numbers)
    tally = np.bincount(np.concatenate(runs), minlength=2)
    of_runs, of_bits = frequencies(np.maximum(tally, 1)), frequencies(np.maximum([bits.size - count, count], 1))
    stored = zlib.compress(of_runs.tobytes(), 9)
    as_bits = entropy_bits(np.array([bits.size - count, count])) / 8 + of_bits.nbytes
    if entropy_bits(tally) / 8 + len(stored) < as_bits:
        found = Coded("sparse", [stored], {"positions": "runs", "runs": [run.size for run in runs]})
        found.parts += [_encoded(run, model_of(of_runs)) for run in runs]
    else:
        found = Coded("sparse", [of_bits.tobytes()], {"positions": "bits"})
        found.parts += [_encoded((bits[part] != 0).astype(np.int32), model_of(of_bits)) for part in chunks(bits.size)]
    found.details["numbers"] = [number.size for number in numbers]
    if found.size >= shorter_than:
        return None
    found.values = coded(np.concatenate(numbers), sparse=False)
    return found if found.size < shorter_than else None


def _planes(bits: np.ndarray) -> Coded:
    """The elements' first bytes, second bytes, ... (of little-endian numbers): a frequency table of each, empty where the bytes
    stand as they are, then chunk by chunk the coded bytes of each place."""
    width = bits.dtype.itemsize
    as_bytes = bits.view(np.uint8).reshape(-1, width)
    found = Coded("planes")
    models: list[Any] = []
    for place in range(width):
        tally = np.zeros(256, np.int64)
        for part in chunks(bits.size):
            tally += np.bincount(as_bytes[part, place], minlength=256)
        if entropy_bits(tally) / 8 + 512 < 0.98 * bits.size:
            table = frequencies(np.maximum(tally, 1))
            models.append(model_of(table))
            found.parts.append(zlib.compress(table.tobytes(), 9))
        else:
            models.append(None)
            found.parts.append(b"")
    for part in chunks(bits.size):
        for place, model in enumerate(models):
            plane = as_bytes[part, place]
            found.parts.append(plane.tobytes() if model is None else _encoded(plane.astype(np.int32), model))
    return found


def _encoded(symbols: np.ndarray, model: Any) -> bytes:
    """By asymmetric numeral systems (Duda 2009), as constriction's AnsCoder writes it: little-endian 32-bit words."""
    import constriction

    coder: Any = constriction.stream.stack.AnsCoder()  # pyright: ignore[reportAttributeAccessIssue]
    coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), model)
    return coder.get_compressed().astype("<u4").tobytes()
