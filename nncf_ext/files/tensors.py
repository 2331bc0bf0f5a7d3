"""The header of a safetensors file, read with suspicion: where which tensor is, before any is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from nncf_ext.files.json_text import Unreadable, refused_as, value_of
from nncf_ext.files.schema import Count, Saved, expect

_MOST_HEADER = 100 << 20  # as safetensors itself


class _Entry(Saved):
    dtype: str
    shape: Annotated[list[Count], Field(max_length=64)]
    data_offsets: Annotated[list[Count], Field(min_length=2, max_length=2)]


_ENTRIES = TypeAdapter(dict[str, _Entry])
_METADATA = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class Stored:
    """A tensor's type by safetensors' name, its shape, and the bytes of the file that it is in."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_of(path: Path, dtypes: dict[str, Any]) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors in a safetensors file by name, and its metadata. dtypes: numpy's types by safetensors' names.

    OSError, or Unreadable where it is no such file, has another type, or tensors that overlap or are not within the file.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if length > min(size - 8, _MOST_HEADER):
            raise Unreadable(f"found a header of {length:,} bytes in a file of {size:,}, expected a safetensors file")
        content = file.read(length)
    with refused_as(Unreadable, "its header is not JSON"):
        found = value_of(content, memory=4 * _MOST_HEADER)
    if not isinstance(found, dict):
        raise Unreadable("found a header that is no object, expected a safetensors file")
    metadata = expect(_METADATA, found.pop("__metadata__", {}))
    tensors = {}
    for name, entry in expect(_ENTRIES, found).items():
        if entry.dtype not in dtypes:
            raise Unreadable(f"{name[:200]} is a {entry.dtype[:20]}, expected one of {', '.join(dtypes)}")
        first, last = entry.data_offsets
        if math.prod(entry.shape) * np.dtype(dtypes[entry.dtype]).itemsize != last - first or 8 + length + last > size:
            raise Unreadable(f"{name[:200]} has the bytes {first} to {last}, expected those of {entry.dtype}{entry.shape}")
        tensors[name] = Stored(entry.dtype, tuple(entry.shape), 8 + length + first, 8 + length + last)
    in_order = sorted((tensor.start, tensor.stop, name) for name, tensor in tensors.items() if tensor.start < tensor.stop)
    for (_, end, _), (start, _, name) in zip(in_order, in_order[1:], strict=False):
        if start < end:
            raise Unreadable(f"{name[:200]} begins at byte {start}, inside of another tensor")
    return tensors, metadata
