"""Axes of an exported file's inputs that take any size, beside the batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

FreeAxes = Mapping[str, Mapping[int, str]]  # input -> axis -> name of the dimension


def free_axes(wanted: FreeAxes, shapes: Mapping[str, Sequence[int | None]], input_names: Sequence[str] | None) -> FreeAxes:
    """`wanted` by the model's own names of its inputs, with axes counted from the start.

    shapes: of the inputs that the model was traced with, by its own names. input_names: what the file calls them, which `wanted`
    may use too. ValueError where there is no such input or axis, or one name is given to axes of different sizes.
    """
    own = dict(zip(input_names or (), shapes, strict=False)) | {name: name for name in shapes}
    sizes: dict[str, tuple[int | None, str]] = {}
    found: dict[str, dict[int, str]] = {}
    for name, axes in wanted.items():
        if name not in own:
            raise ValueError(f"dynamic_shapes: found an input {name!r}, expected one of {', '.join(own)}")
        shape = shapes[own[name]]
        for axis, dimension in axes.items():
            where = f"dynamic_shapes: {name}, axis {axis!r}"
            if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
                raise ValueError(f"{where}: expected an axis of its {len(shape)}, 0 to {len(shape) - 1}")
            if not isinstance(dimension, str) or not dimension.isidentifier():
                raise ValueError(f"{where}: found {dimension!r}, expected a name for the free dimension, 'height' say")
            size = shape[axis % len(shape)]
            other, elsewhere = sizes.setdefault(dimension, (size, f"{name}, axis {axis}"))
            if other != size:
                raise ValueError(
                    f"{where}: {dimension!r} is {size} here and {other} in {elsewhere}, expected one size for a name"
                )
            found.setdefault(own[name], {})[axis % len(shape)] = dimension
    return found


def other_sizes(free: FreeAxes, shapes: Mapping[str, Sequence[int]]) -> Iterator[Mapping[str, Mapping[int, int]]]:
    """Sizes to try a file with: twice those of `shapes` at the free axes, then half. At most two samples, where all inputs have
    the batch first (which what is in a list has not: its names end in a number)."""
    samples = (
        {0}
        if any(name.rpartition(".")[2].isdigit() for name in shapes)
        else {shape[0] if shape else 0 for shape in shapes.values()}
    )
    batch = {0: min(2, *samples)} if len(samples) == 1 and 0 not in samples else {}
    for change in (lambda size: 2 * size, lambda size: size // 2):
        by_input = {name: {axis: change(shapes[name][axis]) for axis in axes if axis or not batch} for name, axes in free.items()}
        if all(size > 0 for axes in by_input.values() for size in axes.values()):
            yield {name: {**batch, **by_input.get(name, {})} for name in shapes}


def name_axes(graph: ir.Graph, free: FreeAxes) -> None:
    """Call the dimensions of the file's inputs, and of what has the same in the graph, as `free` does; the batch `batch`.

    ValueError where the exporter found that the model takes one size only, or the same in two axes with different names.
    """
    renamed: dict[str, str] = {}
    for value in graph.inputs:
        for axis, dimension in free.get(str(value.name), {}).items():
            assert value.shape is not None
            found, where = value.shape[axis], f"dynamic_shapes: {value.name}, axis {axis} ({dimension!r})"
            if isinstance(found, int):
                raise ValueError(
                    f"{where}: the exporter takes its size {found} for a constant of the model, "
                    "expected code that computes with the sizes of its tensors at every size"
                )
            other = renamed.setdefault(str(found.value), dimension)
            if other != dimension:
                raise ValueError(f"{where}: the model takes it only in the size of {other!r}, expected the same name for both")
    firsts = [value.shape[0] if value.shape else 0 for value in graph.inputs]
    if not any(isinstance(size, int) for size in firsts):
        renamed = {str(getattr(size, "value", None)): "batch" for size in firsts} | renamed
    values: list[Any] = [*graph.inputs, *graph.outputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_with_names(size, renamed) for size in value.shape])


def _with_names(size: Any, names: Mapping[str, str]) -> Any:
    """A dimension, an expression in others say, with their new names."""
    if isinstance(size, int) or size.value is None:
        return size
    return re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), size.value)
