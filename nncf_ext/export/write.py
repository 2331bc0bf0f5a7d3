"""Writing an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from nncf_ext.files.writing import replacing

_PROTOBUF_LIMIT = 2**31 - 1


def write(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, atomically: in full under another name, then renamed. See `save`."""
    with replacing(path) as temporary:
        save(model, temporary)


def save(model: ir.Model, path: Path) -> None:
    """One file; weights beyond protobuf's 2 GB go to `<path>.data` beside it."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size > 0.95 * _PROTOBUF_LIMIT else None)
