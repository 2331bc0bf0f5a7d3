"""Mean second derivatives of weights from a file. Never a pickle that could run code."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import StrictFloat, TypeAdapter

from nncf_ext.checkpoint import TensorFile
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import Unreadable, content_of, refused_as, value_in
from nncf_ext.files.schema import expect

_MOST_BYTES = 256 << 20
_TRACES: TypeAdapter[Any] = TypeAdapter(dict[str, StrictFloat] | list[StrictFloat])
_TORCH = (".pt", ".pth", "")  # NNCF 2.x's own dump has no suffix


def read_traces(path: Path, names: Sequence[str], read_tensor: Callable[[Path], np.ndarray], json_path: str) -> np.ndarray:
    """One number for each of `names`: by name where the file has names, else in their order.

    read_tensor: the framework's reader of its own files. ConfigError where the file is not there or does not fit.
    """
    if not path.is_file():
        raise ConfigError(f"{json_path}: {path} is not there")
    try:
        with refused_as(ValueError, "it is damaged"):
            found = _read(path, read_tensor)
            if isinstance(found, dict):
                missing = [name for name in names if name not in found]
                if missing:
                    raise ValueError(f"it has nothing for {missing[0]}")
                found = [found[name] for name in names]
        numbers = np.asarray(found)
        if numbers.dtype.kind not in "fiu":
            raise ValueError(f"found {numbers.dtype} numbers, expected real ones")
        traces = numbers.astype(np.float64).reshape(-1)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        raise ConfigError(f"{json_path}: {path} cannot be used: {error}") from None
    if len(traces) != len(names):
        raise ConfigError(
            f"{json_path}: {path} has {len(traces)} numbers, expected one for each of {len(names)} quantized weights"
        )
    if not np.isfinite(traces).all():
        raise ConfigError(f"{json_path}: {path} has numbers that are not finite")
    return traces


def _read(path: Path, read_tensor: Callable[[Path], np.ndarray]) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _numbers(content_of(path, _MOST_BYTES))
    if suffix == ".json":
        data = value_in(path, _MOST_BYTES, finite=False)
        return expect(_TRACES, data.get("traces", data) if isinstance(data, dict) else data)
    if suffix == ".safetensors":
        file = TensorFile(path)
        tensors = {name: file.read(name) for name in file.specs}
        return next(iter(tensors.values())) if len(tensors) == 1 else tensors
    if suffix in _TORCH:
        return read_tensor(path)
    raise ValueError(f"found a {suffix} file, expected .npy, .safetensors, .json, .pt or .pth")


def _numbers(content: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file, whose header may say anything."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if reader is None:
            raise Unreadable(f"found version {version} of .npy, expected 1.0 or 2.0")
        shape, _, dtype = reader(file)
        count = math.prod(shape)
        if dtype.kind not in "fiu" or count * dtype.itemsize != len(content) - file.tell():
            raise Unreadable(f"found {len(content) - file.tell()} bytes for {dtype}{list(shape)}")
        return np.frombuffer(content, dtype, count, file.tell())
    except Unreadable:
        raise
    except Exception as error:  # of whatever kind: the header is a Python literal
        raise Unreadable(f"found no header of .npy: {str(error)[:100]}") from None
