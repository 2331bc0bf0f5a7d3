"""Writing an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from nncf_ext.checkpoint import atomic

_PROTOBUF_LIMIT = 2**31 - 1


def write(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, atomically: in full under another name, then renamed.

    One file; weights beyond protobuf's 2 GB go to `<path>.data` beside it. FileNotFoundError where the folder is missing.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    with atomic(path) as temporary:
        ir.save(model, temporary, external_data=f"{path.name}.data" if size > 0.95 * _PROTOBUF_LIMIT else None)
