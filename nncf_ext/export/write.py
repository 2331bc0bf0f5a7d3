"""Writing an ONNX file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir

_PROTOBUF_LIMIT = 2**31 - 1


def write(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, atomically: in full under another name, then renamed.

    One file; weights beyond protobuf's 2 GB go to `<path>.data` beside it.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > 0.95 * _PROTOBUF_LIMIT else None
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        ir.save(model, Path(folder) / path.name, external_data=data)
        for name in (data, path.name):
            if name is not None:
                os.replace(Path(folder) / name, path.parent / name)
