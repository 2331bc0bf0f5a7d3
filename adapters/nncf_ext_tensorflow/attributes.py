"""What the core may want to know of one keras.ops or `tf.*` call, by ONNX's names (see `nncf_ext.graph.Node`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from nncf_ext_tensorflow import keras_private

# Arguments of `tf.*` functions, in order; those of keras.ops are attributes of the operation or, named here too, of its call.
_ARGUMENTS = {
    "transpose": "x axes",
    **dict.fromkeys(("concat", "concat_v2", "stack"), "x axis"),
    "split": "x indices_or_sections axis",
    "unstack": "x num axis",
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max", "reduce_min"), "x axis keepdims"),
    **dict.fromkeys(("softmax", "softmax_v2"), "x axis"),
    "tile": "x repeats",
    "pad": "x pad_width mode constant_values",
    "einsum": "subscripts",
    "gather": "x indices validate_indices axis",
    "clip_by_value": "x x_min x_max",
    **dict.fromkeys(("Power", "pow"), "x exponent"),
    "GetItem": "x key",
    "Slice": "x start_indices",
    "Take": "x indices",
    "Pad": "x constant_values",
}
_OTHER_NAMES = {
    "perm": "axes",
    "num_or_size_splits": "indices_or_sections",
    "multiples": "repeats",
    "paddings": "pad_width",
    "equation": "subscripts",
    "clip_value_min": "x_min",
    "clip_value_max": "x_max",
    "x2": "exponent",
    "y": "exponent",
    "block_size": "blocksize",
}
_COPIED = ("axis", "data_format", "strides", "padding", "dilation_rate", "keepdims", "subscripts")

Shape = tuple[int | None, ...]


def operation_attributes(op: str, operation: Any, node: Any) -> dict[str, Any]:
    """Attributes of the node of one recorded call (`node`) of `operation`, which is an ONNX `op`."""
    is_tf = isinstance(operation, keras_private.TFOp)
    name = operation.function_name if is_tf else keras_private.unpatched_class(operation).__name__
    given = dict(zip(_ARGUMENTS.get(name, "").split(), node.arguments.args, strict=False)) | dict(node.arguments.kwargs)
    given |= {} if is_tf else vars(operation)
    given = {_OTHER_NAMES.get(key, key): value for key, value in given.items()}
    attrs = {k: given[k] for k in _COPIED if isinstance(given.get(k), int | float | str | tuple | list)}
    first = keras.tree.flatten(node.arguments.args)
    shape = tuple(getattr(first[0], "shape", ())) if first else ()
    describe = _DESCRIPTIONS.get(op)
    return attrs | (describe(name, given, shape, node.outputs) if describe is not None else {})


def _permutation(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    """Asked of numpy, with an array whose axes can be told apart by their sizes."""
    x = np.empty(tuple(range(1, len(shape) + 1)))
    if name == "Swapaxes":
        x = np.swapaxes(x, given["axis1"], given["axis2"])
    elif name == "Moveaxis":
        x = np.moveaxis(x, given["source"], given["destination"])
    else:
        x = np.transpose(x, given.get("axes"))
    return {"perm": tuple(size - 1 for size in x.shape)}


def _parts(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    axis = given.get("axis") or 0
    if name in ("Unstack", "unstack"):
        return {"axis": axis, "split": (1,) * len(outputs), "num_outputs": len(outputs), "keepdims": 0}
    sizes = tuple(part.shape[axis] for part in outputs)
    if any(size is None for size in sizes):
        return {"axis": axis}
    equal = {"num_outputs": len(outputs)} if isinstance(given.get("indices_or_sections"), int) else {}
    return {"axis": axis, "split": sizes, **equal}


def _concatenation(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    if name in ("Hstack", "Vstack"):
        return {} if len(shape) < 2 else {"axis": 1 if name == "Hstack" else 0}
    return {"axis": given.get("axis") or 0, **({"new_axis": 1} if name in ("Stack", "stack") else {})}


def _index(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    """numpy's basic index: of slices, whole numbers, None and Ellipsis."""
    if name == "Slice":
        starts, sizes = given["start_indices"], given["shape"]
        known = all(isinstance(n, int) for n in (*starts, *sizes)) if not keras.ops.is_tensor(starts) else False
        return {"index": tuple(slice(n, n + size) for n, size in zip(starts, sizes, strict=True))} if known else {}
    key = given.get("key")
    index = key if isinstance(key, tuple) else (key,)
    basic = all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in index)
    return {"index": index} if "key" in given and basic and not any(isinstance(item, bool) for item in index) else {}


def _lookup(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    """The axis, and where they are constants and of one dimension, the indices."""
    axis, indices = given.get("axis"), given.get("indices")
    if axis is None:
        return {"axis": 0} if name == "gather" else {}
    if indices is None or isinstance(indices, keras.KerasTensor | keras.Variable) or np.ndim(indices) != 1:
        return {"axis": axis}
    return {"axis": axis, "indices": tuple(int(i) for i in np.asarray(indices))}


def _repetition(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    """numpy's `tile`; with an `axis`, its `repeat`."""
    repeats, axis = given.get("repeats"), given.get("axis")
    if name == "Repeat":
        return {"repeats": repeats, "axis": axis} if isinstance(repeats, int) and axis is not None else {}
    known = isinstance(repeats, int) or (isinstance(repeats, tuple | list) and all(isinstance(n, int) for n in repeats))
    return {"repeats": (repeats,) if isinstance(repeats, int) else tuple(repeats)} if known and repeats is not None else {}


def _padding(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    widths = np.broadcast_to(np.asarray(given["pad_width"]), (len(shape), 2))
    pads = tuple(int(width) for width in widths.T.reshape(-1))
    value = given.get("constant_values")
    return {"pads": pads, "mode": str(given.get("mode", "constant")).lower(), "value": 0 if value is None else value}


def _limits(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    if name in ("Relu6", "relu6"):
        return {"min": 0.0, "max": 6.0}
    limits = {"min": given.get("x_min"), "max": given.get("x_max")}
    return {key: value for key, value in limits.items() if isinstance(value, int | float)}


def _exponent(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    exponent = {"Square": 2, "square": 2, "Rsqrt": -0.5, "rsqrt": -0.5}.get(name, given.get("exponent"))
    return {"exponent": exponent} if isinstance(exponent, int | float) else {}


def _normalized_axes(name: str, given: Mapping[str, Any], shape: Shape, outputs: Sequence[Any]) -> dict[str, Any]:
    axis = given.get("axis", -1)
    return {"axis": (axis,) if isinstance(axis, int) else tuple(axis)}


_DESCRIPTIONS: Mapping[str, Callable[[str, Mapping[str, Any], Shape, Sequence[Any]], dict[str, Any]]] = {
    "Transpose": _permutation,
    "Split": _parts,
    "Concat": _concatenation,
    "Slice": _index,
    "Gather": _lookup,
    "Tile": _repetition,
    "Pad": _padding,
    "Clip": _limits,
    "Pow": _exponent,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalized_axes),
    "MatMul": lambda name, given, shape, outputs: {"equation": given["subscripts"]} if "subscripts" in given else {},
    "Attention": lambda name, given, shape, outputs: {"head_axis": 2},  # (batch, length, heads, channels)
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), lambda name, given, shape, outputs: {"blocksize": given["blocksize"]}),
}
