"""Writing packed files: tensor by tensor, so that one at a time is in memory."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nncf_ext.files.writing import replacing
from nncf_ext.packed.coding import Coded, coded
from nncf_ext.packed.layout import BITS, MAGIC, NAMES, PREFIX, SIGNS, VERSION, product_decoded


@dataclass(frozen=True)
class Scaled:
    """Integers times scales: codes * step, in float32. step: broadcastable to codes."""

    codes: np.ndarray
    step: np.ndarray


@dataclass(frozen=True)
class Product:
    """Sub-vectors of an array in float32 along `axis` by their numbers in code books, one for each subspace of that axis.

    codebook: (M, K, d), where M * d is the size of the axis. codes: whole numbers (M, all other axes in their order, flattened).
    kept: of the array's shape, False where it is zero whatever the code is; None: nowhere.
    """

    codebook: np.ndarray
    codes: np.ndarray
    shape: tuple[int, ...]
    axis: int
    kept: np.ndarray | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        found = {"codebook": self.codebook.astype(np.float32), "codes": self.codes}
        return found if self.kept is None else {**found, "kept": self.kept}

    def decoded(self) -> np.ndarray:
        return product_decoded(self.codebook, self.codes, self.shape, self.axis, self.kept)


class PackedWriter:
    """`with PackedWriter(path) as file: file.add(name, array)`. The file is there, whole, if the block ends without an error."""

    def __init__(self, path: str | os.PathLike[str]):
        if importlib.util.find_spec("constriction") is None:
            raise ValueError("packing: constriction is not installed: pip install constriction")
        self._path = Path(path)
        self._tensors: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}

    def __enter__(self) -> PackedWriter:
        with ExitStack() as stack:
            self._file = stack.enter_context(stack.enter_context(replacing(self._path)).open("wb"))
            self._file.write(bytes(PREFIX))
            self._open = stack.pop_all()
        return self

    def add(self, name: str, value: np.ndarray | Scaled | Product, dtype: str | None = None) -> None:
        """dtype: its name, where `value` holds the bits of a type that numpy lacks. ValueError for a name that is there."""
        if name in self._tensors:
            raise ValueError(f"{name}: found twice, expected every tensor once")
        if isinstance(value, Scaled):
            record = {"shape": list(value.codes.shape), "dtype": "F32", "codec": "scaled"}
            record["codes"], record["step"] = self._record(value.codes), self._record(value.step.astype(np.float32))
        elif isinstance(value, Product):
            record = {"shape": list(value.shape), "dtype": "F32", "codec": "product", "axis": value.axis}
            record |= {part: self._record(array) for part, array in value.arrays.items()}
        else:
            record = self._record(value, dtype)
        self._tensors[name] = record

    def _record(self, array: np.ndarray, dtype: str | None = None) -> dict[str, Any]:
        array = np.asarray(array)
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        name = dtype or NAMES[array.dtype]
        return {"shape": list(array.shape), "dtype": name, **self._written(coded(_without_negative_zeros(array, name)))}

    def _written(self, code: Coded) -> dict[str, Any]:
        parts = []
        for part in code.parts:
            parts.append([self._file.tell(), len(part), zlib.crc32(part)])
            self._file.write(part)
        values = {} if code.values is None else {"values": self._written(code.values)}
        return {"codec": code.codec, **code.details, "parts": parts, **values}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with self._open:
                self._write_index()
        else:
            self._open.__exit__(kind, error, trace)

    def _write_index(self) -> None:
        index = json.dumps({"tensors": self._tensors, "metadata": self.metadata}, separators=(",", ":")).encode()
        stored = zlib.compress(index, 9)
        offset = self._file.tell()
        self._file.write(stored)
        self._file.seek(0)
        self._file.write(MAGIC + struct.pack("<IQQII", VERSION, offset, len(stored), len(index), zlib.crc32(stored)))


def _without_negative_zeros(array: np.ndarray, dtype: str) -> np.ndarray:
    """A masked weight is often -0.0: a bit of its own for each zero, which says nothing."""
    sign = SIGNS.get(dtype)
    if sign is None:
        return array
    bits = array.view(BITS[array.dtype.itemsize])
    negative = bits == sign
    return np.where(negative, bits.dtype.type(0), bits).view(array.dtype) if negative.any() else array


def pack_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray | Scaled | Product] | Iterable[tuple[str, np.ndarray | Scaled | Product]],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays by name to a packed file. metadata: JSON data that goes with them.

    >>> import numpy as np
    >>> weight = np.zeros(10_000, np.float32)
    >>> weight[::10] = 0.5  # 90 % zeros, and one other value
    >>> pack_arrays("model.ncp", {"weight": weight})
    >>> bool((Packed("model.ncp")["weight"] == weight).all())
    True
    >>> Packed("model.ncp").stored_bytes("weight") < weight.nbytes / 20
    True
    """
    with PackedWriter(path) as file:
        pairs: Any = arrays.items() if isinstance(arrays, Mapping) else arrays
        for name, array in pairs:
            file.add(name, array)
        file.metadata = dict(metadata or {})
