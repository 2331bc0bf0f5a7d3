"""Reading packed files. Nothing in them is trusted: sizes are checked before memory is asked for, bytes before decoding."""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from nncf_ext.files.json_text import Unreadable, refused_as, value_of
from nncf_ext.files.schema import Count, Saved, expect
from nncf_ext.packed.coding import entropy_bits
from nncf_ext.packed.layout import (
    BITS,
    CHUNK,
    DEFAULT_LIMIT,
    DTYPES,
    LONGEST_GAP,
    MAGIC,
    MOST_LEVELS,
    PREFIX,
    VERSION,
    model_of,
    product_decoded,
    restored,
)

_LEAST_INDEX, _MOST_INDEX = 16 << 20, 1 << 30  # bytes of memory that an index may take, whatever the limit is
_COMPOSITE = {"scaled": ("codes", "step"), "product": ("codebook", "codes", "kept")}  # codecs, and their records inside


Shape = Annotated[list[Count], Field(max_length=64)]
Part = Annotated[list[Count], Field(min_length=3, max_length=3)]


class _Flat(Saved):
    """A record without others in it but `values`, which are a record of the same kind."""

    codec: Literal["raw", "zlib", "book", "planes"]
    parts: list[Part]


class _Sparse(Saved):
    codec: Literal["sparse"]
    positions: Literal["runs", "bits"]
    numbers: list[Count]
    runs: list[Count] = []
    parts: list[Part]
    values: _Flat


class _Array(Saved):
    shape: Shape
    dtype: str


class _FlatArray(_Array, _Flat): ...


class _SparseArray(_Array, _Sparse): ...


_Plain = Annotated[_FlatArray | _SparseArray, Field(discriminator="codec")]


class _Scaled(_Array):
    codec: Literal["scaled"]
    codes: _Plain
    step: _Plain


class _Product(_Array):
    codec: Literal["product"]
    axis: Count
    codebook: _Plain
    codes: _Plain
    kept: _Plain | None = None


class _Index(Saved):
    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, Any] = {}


_RECORD: TypeAdapter[Any] = TypeAdapter(Annotated[_FlatArray | _SparseArray | _Scaled | _Product, Field(discriminator="codec")])


class PackedError(ValueError):
    """A packed file that is damaged, or none, in one sentence: which tensor, at which byte."""


class Packed(Mapping[str, np.ndarray]):
    """The tensors of a packed file by name, each decoded when it is asked for.

    limit: bytes that one tensor may need when decoded; the index may take as many, or 16 MB. Raises PackedError where the file is
    none, damaged, or of a version that this reader does not know; a tensor's own damage when it is read.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int = DEFAULT_LIMIT):
        self.path, self._limit = Path(path), limit
        self._index_limit = min(max(limit, _LEAST_INDEX), _MOST_INDEX)
        with self.path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise PackedError(f"{self.path}: found a device or a pipe, expected a packed file")
            size = about.st_size
            if size < PREFIX:
                raise PackedError(f"{self.path}: found {size} bytes, expected a packed file")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._data[: len(MAGIC)] != MAGIC:
            raise PackedError(f"{self.path}: its first bytes are not those of a packed file")
        version, offset, stored, length, check = struct.unpack("<IQQII", self._data[len(MAGIC) : PREFIX])
        if version != VERSION:
            raise PackedError(f"{self.path}: found version {version}, this reader knows version {VERSION}")
        if not PREFIX <= offset <= size or stored != size - offset:
            raise PackedError(f"{self.path}: the index is said to be at byte {offset} and {stored} long, in a file of {size}")
        if length > self._index_limit:
            most = self._index_limit
            raise PackedError(f"{self.path}: the index is said to unpack to {length:,} characters, expected {most:,} at most")
        content = self._data[offset:size]
        if zlib.crc32(content) != check:
            raise PackedError(f"{self.path}: the checksum of the index at byte {offset} is wrong")
        self._end = offset
        self._tensors, self.metadata = self._index(content, length)

    def _index(self, content: bytes, length: int) -> tuple[dict[str, Any], Any]:
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(content, length + 1)
            if len(text) != length:
                raise Unreadable(f"found {len(text)} characters, expected {length}")
            index = value_of(text, self._index_limit)
            expect(_Index, index)
        except (zlib.error, Unreadable) as error:
            raise PackedError(f"{self.path}: the index is no index: {error}") from None
        return index["tensors"], index.get("metadata", {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        record = self._tensors[name]
        with self._raised_as_packed_error(name):
            return self._decoded(name, record)

    @contextmanager
    def _raised_as_packed_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except PackedError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError, zlib.error) as error:
            raise PackedError(f"{self.path}: the record of {name} is wrong: {type(error).__name__}: {error}") from None

    def bits(self, name: str) -> np.ndarray:
        """As `[name]`, types that numpy lacks as unsigned integers of their bits."""
        with self._raised_as_packed_error(name):
            return self._decoded(name, self._tensors[name], restore=False)

    def _record(self, name: str) -> Any:
        """What the index says of a tensor, in the shape that a record has."""
        with refused_as(PackedError, f"{self.path}: the record of {name} is wrong"):
            expect(_RECORD, self._tensors[name])
        return self._tensors[name]

    def expect_within_limit(self) -> None:
        """PackedError where all tensors together are said to need more than the limit."""
        total = sum(math.prod(self.shape(name)) * np.dtype(DTYPES[self.dtype(name)]).itemsize for name in self)
        if total > self._limit:
            raise PackedError(f"{self.path}: its tensors are said to need {total:,} bytes, the limit is {self._limit:,}")

    def dtype(self, name: str) -> str:
        """The tensor's type, by the name that safetensors has for it."""
        dtype = str(self._record(name)["dtype"])
        if dtype not in DTYPES:
            raise PackedError(f"{self.path}: {name} is said to be a {dtype[:20]!r}")
        return dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._record(name)["shape"])

    def codec(self, name: str) -> str:
        record = self._record(name)
        names = []
        while True:
            names.append(str(record["codec"]))
            record = record.get("codes") or record.get("values")
            if record is None:
                return ", ".join(names)

    def stored_bytes(self, name: str) -> int:
        return sum(_stored(record) for record in _records(self._record(name)))

    def bound_bytes(self, name: str) -> float:
        """Bytes that no code of single elements goes below: n * H of the elements, and what tells them (book, scales)."""
        with self._raised_as_packed_error(name):
            return sum(self._bound(name, record) for record in _records(self._record(name)))

    def _bound(self, name: str, record: Any) -> float:
        kind = np.dtype(DTYPES[record["dtype"]])
        inner = record["values"] if record["codec"] == "sparse" else record
        if inner["codec"] != "book":
            return float(_stored(record))
        elements = self._decoded(name, record, restore=False).reshape(-1).view(BITS[kind.itemsize])
        return entropy_bits(np.unique(elements, return_counts=True)[1]) / 8 + sum(length for _, length, _ in inner["parts"][:2])

    def _decoded(self, name: str, record: Any, restore: bool = True) -> np.ndarray:
        shape = tuple(record["shape"])
        if not all(isinstance(n, int) and n >= 0 for n in shape) or record["dtype"] not in DTYPES:
            raise PackedError(f"{self.path}: {name} is said to be a {record['dtype']!r} of shape {list(shape)}")
        kind = np.dtype(DTYPES[record["dtype"]])
        count = math.prod(shape)
        if count * max(kind.itemsize, 4) > self._limit:
            raise PackedError(
                f"{self.path}: {name} is said to need {count * kind.itemsize:,} bytes, the limit is {self._limit:,}"
            )
        if record["codec"] == "scaled":
            return self._scaled(name, record, shape)
        if record["codec"] == "product":
            return self._product(name, record, shape)
        array = self._flat(name, record, count, kind).reshape(shape)
        return restored(record["dtype"], array) if restore else array

    def _flat(self, name: str, record: Any, count: int, kind: np.dtype) -> np.ndarray:
        parts = [self._part(name, part) for part in record["parts"]]
        try:
            if record["codec"] == "sparse":
                flat = np.zeros(count, BITS[kind.itemsize])
                where = list(_positions(parts, count, record))
                values = self._flat(name, record["values"], sum(at.size for at in where), kind).view(flat.dtype)
                for start, at in zip(range(0, count, CHUNK), where, strict=True):
                    flat[start : start + CHUNK][at], values = values[: at.size], values[at.size :]
                return flat.view(kind)
            decoder = _DECODERS.get(record["codec"])
            if decoder is None:
                known = ", ".join(("sparse", *_COMPOSITE, *_DECODERS))
                raise PackedError(f"{self.path}: {name} has the codec {record['codec']!r}, expected one of {known}")
            return decoder(parts, count, kind, record)
        except _Wrong as error:
            where_in_file = record["parts"][0][0] if record["parts"] else PREFIX
            raise PackedError(f"{self.path}: {name}, at byte {where_in_file}: {error}") from None

    def _scaled(self, name: str, record: Any, shape: tuple[int, ...]) -> np.ndarray:
        codes, step = self._inner(name, record["codes"]), self._inner(name, record["step"])
        if codes.shape != shape or np.broadcast_shapes(codes.shape, step.shape) != shape or codes.dtype.kind not in "iu":
            raise PackedError(f"{self.path}: {name} is {codes.dtype}{list(codes.shape)} codes times {list(step.shape)} scales")
        return codes.astype(np.float32) * step.astype(np.float32)

    def _product(self, name: str, record: Any, shape: tuple[int, ...]) -> np.ndarray:
        codebook, codes = self._inner(name, record["codebook"]), self._inner(name, record["codes"])
        kept, axis = self._inner(name, record["kept"]) if "kept" in record else None, record["axis"]
        fits = (
            record["dtype"] == "F32"
            and (codebook.dtype, codebook.ndim, codes.dtype.kind in "iu", codes.ndim) == (np.float32, 3, True, 2)
            and type(axis) is int
            and 0 <= axis < len(shape)
            and min(codebook.shape) > 0
            and len(codebook) == len(codes)
            and codebook.shape[0] * codebook.shape[2] == shape[axis]
            and codes.shape[1] == math.prod(shape[:axis]) * math.prod(shape[axis + 1 :])
            and (kept is None or (kept.dtype, kept.shape) == (np.bool_, shape))
        )
        if not fits:
            kinds = (
                f"{codes.dtype}{list(codes.shape)} codes of {codebook.dtype}{list(codebook.shape)} codewords along axis {axis}"
            )
            raise PackedError(f"{self.path}: {name} is {list(shape)} by {kinds}, which is not that shape")
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < codebook.shape[1]:
            found = f"codes from {codes.min()} to {codes.max()}"
            raise PackedError(f"{self.path}: {name} has {found}, expected from 0 to {codebook.shape[1] - 1}")
        return product_decoded(codebook, codes, shape, axis, kept)

    def _inner(self, name: str, record: Any) -> np.ndarray:
        """A record inside of another's, which has none itself."""
        if record["codec"] in _COMPOSITE:
            raise PackedError(f"{self.path}: {name} has a {record['codec']} record inside of another one")
        return self._decoded(name, record)

    def _part(self, name: str, part: Any) -> bytes:
        offset, length, check = part
        if not all(type(n) is int and n >= 0 for n in part) or offset < PREFIX or offset + length > self._end:
            raise PackedError(f"{self.path}: {name} is said to be at byte {offset}, {length} long, outside of the data")
        content = self._data[offset : offset + length]
        if zlib.crc32(content) != check:
            raise PackedError(f"{self.path}: the checksum of {name} at byte {offset} is wrong")
        return content


def load(path: str | os.PathLike[str], names: Iterable[str] | None = None, limit: int = DEFAULT_LIMIT) -> dict[str, np.ndarray]:
    """The arrays of a packed file, all or those named. PackedError where it is damaged; limit: bytes that all may need.

    >>> import numpy as np
    >>> pack_arrays("model.ncp", {"weight": np.arange(6.0), "bias": np.zeros(2)})
    >>> load("model.ncp", ["bias"])
    {'bias': array([0., 0.])}
    """
    file = Packed(path, limit)
    found: dict[str, np.ndarray] = {}
    for name in file if names is None else names:
        found[name] = file[name]
        if sum(array.nbytes for array in found.values()) > limit:
            raise PackedError(f"{path}: the tensors up to {name} need more than the limit of {limit:,} bytes")
    return found


def _records(record: Any) -> list[Any]:
    return [record[part] for part in _COMPOSITE.get(record["codec"], ()) if part in record] or [record]


def _stored(record: Any) -> int:
    inner = _stored(record["values"]) if "values" in record else 0
    return inner + sum(length for _, length, _ in record["parts"])


class _Wrong(Exception):
    """What is wrong with the parts of a tensor."""


def _expect(true: bool, what: str) -> None:
    if not true:
        raise _Wrong(what)


def _raw(parts: list[bytes], count: int, kind: np.dtype, record: Any) -> np.ndarray:
    _expect(len(parts) == 1 and len(parts[0]) == count * kind.itemsize, f"expected {count * kind.itemsize} bytes")
    return np.frombuffer(parts[0], kind.newbyteorder("<")).astype(kind)


def _zlib(parts: list[bytes], count: int, kind: np.dtype, record: Any) -> np.ndarray:
    _expect(len(parts) == 1, f"found {len(parts)} parts, expected one")
    return _raw([_inflated(parts[0], count * kind.itemsize)], count, kind, record)


def _inflated(content: bytes, length: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, length + 1)
    except zlib.error:
        raise _Wrong("its bytes are not zlib's") from None


def _levels(part: bytes, kind: np.dtype) -> np.ndarray:
    bits = np.dtype(BITS[kind.itemsize])
    _expect(len(part) % bits.itemsize == 0 and 0 < len(part) // bits.itemsize <= MOST_LEVELS, "its code book has a wrong size")
    return np.frombuffer(part, bits.newbyteorder("<")).astype(bits)


def _table(part: bytes, count: int | None = None) -> np.ndarray:
    _expect(len(part) % 2 == 0 and len(part) > 0, "its frequencies have a wrong size")
    table = np.frombuffer(part, "<u2")
    _expect((count is None or table.size == count) and bool((table > 0).all()), "its frequencies are wrong")
    return table


def _symbols(content: bytes, table: np.ndarray, count: int) -> np.ndarray:
    import constriction

    _expect(len(content) % 4 == 0, "its code has a wrong size")
    if count == 0:
        return np.empty(0, np.int32)
    words = np.frombuffer(content, "<u4").astype(np.uint32)
    _expect(words.size == 0 or words[-1] != 0, "its code ends wrongly")
    coder: Any = constriction.stream.stack.AnsCoder(words)  # pyright: ignore[reportAttributeAccessIssue]
    return coder.decode(model_of(table), count)


def _lengths(count: int) -> list[int]:
    return [min(CHUNK, count - start) for start in range(0, count, CHUNK)]


def _by_book(parts: list[bytes], count: int, kind: np.dtype, record: Any) -> np.ndarray:
    levels = _levels(parts[0], kind)
    if len(parts) == 1:
        _expect(levels.size == 1, "it has no code")
        return np.full(count, levels[0]).view(kind)
    table, lengths = _table(parts[1], levels.size), _lengths(count)
    _expect(len(parts) == 2 + len(lengths), "it has a wrong number of parts")
    flat = np.empty(count, levels.dtype)
    for start, length, part in zip(range(0, count, CHUNK), lengths, parts[2:], strict=True):
        np.take(levels, _symbols(part, table, length), out=flat[start : start + length])
    return flat.view(kind)


def _positions(parts: list[bytes], count: int, record: Any) -> Iterator[np.ndarray]:
    """Of what is not zero, in each chunk."""
    lengths, numbers = _lengths(count), record["numbers"]
    counts = record["runs"] if record["positions"] == "runs" else lengths
    _expect(len(counts) == len(numbers) == len(lengths) == len(parts) - 1, "it has a wrong number of parts")
    table = _table(_inflated(parts[0], 2 * (LONGEST_GAP + 1)) if record["positions"] == "runs" else parts[0])
    _expect(2 <= table.size <= LONGEST_GAP + 1, "its frequencies are wrong")
    for length, number, symbols, part in zip(lengths, numbers, counts, parts[1:], strict=True):
        _expect(type(symbols) is type(number) is int and 0 <= number <= symbols <= length, "its counts are wrong")
        found = _symbols(part, table, symbols)
        if record["positions"] == "runs":
            is_number = found < LONGEST_GAP
            at = np.cumsum(found + is_number)[is_number] - 1
        else:
            _expect(table.size == 2, "its frequencies are wrong")
            at = np.flatnonzero(found)
        _expect(at.size == number and (at.size == 0 or int(at[-1]) < length), "its counts are wrong")
        yield at


def _by_planes(parts: list[bytes], count: int, kind: np.dtype, record: Any) -> np.ndarray:
    width, lengths = kind.itemsize, _lengths(count)
    _expect(len(parts) == width * (1 + len(lengths)), "it has a wrong number of parts")
    tables = [_table(_inflated(part, 512), 256) if part else None for part in parts[:width]]
    flat = np.empty((count, width), np.uint8)
    for i, (start, length) in enumerate(zip(range(0, count, CHUNK), lengths, strict=True)):
        for place, table in enumerate(tables):
            part = parts[width * (1 + i) + place]
            if table is None:
                _expect(len(part) == length, f"found {len(part)} bytes, expected {length}")
                flat[start : start + length, place] = np.frombuffer(part, np.uint8)
            else:
                flat[start : start + length, place] = _symbols(part, table, length)
    return flat.reshape(-1).view(kind.newbyteorder("<")).astype(kind, copy=False)


_DECODERS = {"raw": _raw, "zlib": _zlib, "book": _by_book, "planes": _by_planes}
