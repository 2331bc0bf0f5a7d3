"""Writing ONNX files, and the weights that do not fit into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from nncf_ext.files.writing import name_beside, remove_beside, replacing

MOST_INLINE = int(0.95 * (2**31 - 1))  # bytes of weights; protobuf has no files beyond 2 GB
_DATA = ".data"


def write(model: ir.Model, path: Path, most_inline: int = MOST_INLINE) -> None:
    """Write `model` to `path` in one step. See `save`."""
    with replacing_model(path) as temporary:
        save(model, temporary, most_inline)


@contextmanager
def replacing_model(path: Path) -> Iterator[Path]:
    """`replacing` for an ONNX file and its weights. Those of the file that was there go once nothing speaks of them."""
    with replacing(path) as temporary:
        yield temporary
    remove_beside(path, _DATA, lambda: _data_files(path))


def save(model: ir.Model, path: Path, most_inline: int = MOST_INLINE) -> None:
    """One file; weights of more than `most_inline` bytes go to `<path>.<eight letters>.data` beside it."""
    size = sum(tensor.nbytes for tensor in _weights(model))
    ir.save(model, path, external_data=name_beside(path, _DATA) if size > most_inline else None)


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [value.const_value for value in values if value.const_value is not None]


def _data_files(path: Path) -> set[str]:
    return {str(tensor.location) for tensor in _weights(ir.load(path)) if isinstance(tensor, ir.ExternalTensor)}
