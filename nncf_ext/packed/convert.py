"""Packed files of safetensors and ONNX files, and back: bit for bit the same tensors, the same graph."""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext.files.json_text import refused_as
from nncf_ext.files.tensors import Stored, header_of
from nncf_ext.files.writing import replacing
from nncf_ext.packed.layout import DEFAULT_LIMIT, DTYPES, NAMES
from nncf_ext.packed.reader import Packed, PackedError
from nncf_ext.packed.writer import PackedWriter
from nncf_ext.report import progress

_GRAPH = "onnx graph"  # name of the tensor that holds an ONNX file without its weights
_SMALLEST = 64  # bytes of an initializer that is worth a tensor of its own


def pack_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Pack a .safetensors or .onnx file. ValueError where it is neither, or is damaged."""
    path = Path(source)
    if path.suffix == ".onnx":
        _pack_onnx(path, target)
    elif path.suffix == ".safetensors":
        _pack_safetensors(path, target)
    else:
        raise ValueError(f"{path}: found a {path.suffix or 'file without a suffix'}, expected .safetensors or .onnx")


def unpack_file(source: str | os.PathLike[str], target: str | os.PathLike[str] | None = None, limit: int = DEFAULT_LIMIT) -> Path:
    """Write what a packed file holds as .onnx, if it was made of such a file, else as .safetensors; returns the file.

    limit: bytes that all its tensors together may need.
    """
    packed = Packed(source, limit)
    packed.expect_within_limit()
    suffix = ".onnx" if packed.metadata.get("source") == "onnx" else ".safetensors"
    path = Path(target) if target is not None else Path(source).with_suffix(suffix)
    if path.suffix != suffix:
        raise ValueError(f"{path}: {source} holds a model for a {suffix} file, found {path.suffix!r}")
    _unpack_onnx(packed, path) if suffix == ".onnx" else _unpack_safetensors(packed, path)
    return path


def _pack_safetensors(path: Path, target: str | os.PathLike[str]) -> None:
    with refused_as(ValueError, path):
        tensors, metadata = header_of(path, DTYPES)
    with PackedWriter(target) as file:
        size = path.stat().st_size
        for name, dtype, array in progress(_arrays(path, tensors), size, "packing", lambda tensor: tensor[2].nbytes):
            file.add(name, array, dtype)
        file.metadata = {"source": "safetensors", "metadata": metadata}


def _arrays(path: Path, tensors: Mapping[str, Stored]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, type and elements of each tensor, read from disk when they are looked at."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for name, stored in tensors.items():
        kind = np.dtype(DTYPES[stored.dtype])
        yield name, stored.dtype, np.frombuffer(data, kind, math.prod(stored.shape), stored.start).reshape(stored.shape)


def _unpack_safetensors(packed: Packed, path: Path) -> None:
    header: dict[str, Any] = {}
    kept = packed.metadata.get("metadata")
    if isinstance(kept, dict) and kept:
        header["__metadata__"] = {str(key): str(value) for key, value in kept.items()}
    offset = 0
    for name in packed:
        size = math.prod(packed.shape(name)) * np.dtype(DTYPES[packed.dtype(name)]).itemsize
        header[name] = {"dtype": packed.dtype(name), "shape": packed.shape(name), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in packed:
            file.write(np.ascontiguousarray(packed.bits(name)).tobytes())


def _pack_onnx(path: Path, target: str | os.PathLike[str]) -> None:
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own class, or a missing file of weights
        raise ValueError(f"{path}: cannot be read as an ONNX file: {str(error).splitlines()[0]}") from None
    with PackedWriter(target) as file:
        tensors = _initializers(model)
        for number, tensor in enumerate(progress(tensors, len(tensors), "packing", lambda tensor: 1)):
            try:
                array = onnx.numpy_helper.to_array(tensor)
            except Exception as error:
                raise ValueError(f"{path}: the tensor {tensor.name[:200]!r} is damaged: {str(error)[:200]}") from None
            if array.nbytes < _SMALLEST or tensor.data_type == onnx.TensorProto.STRING:
                continue
            content = tensor.raw_data or array.tobytes()
            kind = array.dtype if array.dtype in NAMES and array.nbytes == len(content) else np.dtype(np.uint8)
            file.add(f"{number}:{tensor.name}", np.frombuffer(content, kind).reshape(array.shape if kind == array.dtype else -1))
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
        file.add(_GRAPH, np.frombuffer(model.SerializeToString(deterministic=True), np.uint8))
        file.metadata = {"source": "onnx"}


def _initializers(model: Any) -> list[Any]:
    """Of the graph and those inside its nodes, in a fixed order."""
    found: list[Any] = []

    def visit(graph: Any) -> None:
        found.extend(graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)
                for inner in attribute.graphs:
                    visit(inner)

    visit(model.graph)
    return found


def _unpack_onnx(packed: Packed, path: Path) -> None:
    import onnx
    import onnx_ir as ir

    from nncf_ext.files.onnx_file import MOST_INLINE, replacing_model, save

    model = onnx.ModelProto()
    try:
        model.ParseFromString(packed[_GRAPH].tobytes())
    except PackedError:
        raise
    except Exception:
        raise PackedError(f"{packed.path}: the graph is no ONNX graph") from None
    for number, tensor in enumerate(_initializers(model)):
        name = f"{number}:{tensor.name}"
        if name in packed:
            tensor.raw_data = packed.bits(name).tobytes()
            try:
                onnx.numpy_helper.to_array(tensor)
            except Exception:
                raise PackedError(f"{packed.path}: {name} is not of the shape and type that the graph says") from None
    with replacing_model(path) as temporary:
        if sum(len(tensor.raw_data) for tensor in _initializers(model)) > MOST_INLINE:
            save(ir.from_proto(model), temporary, MOST_INLINE)
        else:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
