"""A compressed model as an ONNX file, compared with the model it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from nncf_ext import reference
from nncf_ext.adapter import Adapter, Attached
from nncf_ext.edits import QUANTIZE
from nncf_ext.export.bias import step_of
from nncf_ext.export.lower import lower
from nncf_ext.export.marked import Grid
from nncf_ext.export.parity import Parity, parity
from nncf_ext.export.write import write


def export_onnx(
    adapter: Adapter,
    attached: Attached,
    path: Path,
    example: Any,
    samples: Sequence[Any] = (),
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> Parity:
    """Write the compressed model to `path` with QuantizeLinear/DequantizeLinear and integer weights.

    samples: batches of model inputs for the parity check (`example` where there are none). Returns what the check found.
    """
    model = lower(adapter.export_marked(attached, example, input_names, output_names), grids(adapter, attached))
    names, step = [str(value.name) for value in model.graph.inputs], _output_step(model.graph)
    write(model, path)
    batches = list(samples) or [example]
    references = [[adapter.to_numpy(a) for a in adapter.flatten(adapter.infer(attached.model, batch))] for batch in batches]
    return parity(path, [_inputs(adapter, batch, names) for batch in batches], references, step)


def grids(adapter: Adapter, attached: Attached) -> dict[str, Grid]:
    """The grid of every quantizer of the plan, by edit key."""
    found = {}
    for edit in attached.plan:
        if edit.transform.stage == QUANTIZE:
            variables = {name: adapter.to_numpy(value) for name, value in attached.variables(edit).items()}
            grid = edit.transform.grid(reference, variables)  # type: ignore[attr-defined]
            found[edit.key] = Grid(grid.low, grid.step, grid.intervals)
    return found


def _output_step(graph: ir.Graph) -> float | None:
    """The widest step of the outputs, None where one of them is not quantized."""
    steps = [step_of(value) for value in graph.outputs]
    return None if None in steps else float(max(step for step in steps if step is not None))


def _inputs(adapter: Adapter, batch: Any, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of a batch in the order of the file's inputs: by name where the batch is a dict of these, else as they come."""
    if isinstance(batch, Mapping) and set(names) <= set(batch):
        return [adapter.to_numpy(batch[name]) for name in names]
    return [adapter.to_numpy(array) for array in _leaves(batch)]


def _leaves(nested: Any) -> list[Any]:
    if isinstance(nested, Mapping):
        return [leaf for value in nested.values() for leaf in _leaves(value)]
    if isinstance(nested, list | tuple):
        return [leaf for value in nested for leaf in _leaves(value)]
    return [] if nested is None else [nested]
