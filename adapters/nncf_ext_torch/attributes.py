"""What the core may want to know of one call of a torch function, by ONNX's names (see `nncf_ext.graph.Node`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from nncf_ext.ops import RECURRENT
from nncf_ext_torch.operators import lookup_name
from nncf_ext_torch.recurrent import CELLS

# Arguments of the functions that are looked into, in order (those of the same name whichever way they are called).
_ARGUMENTS = {
    **dict.fromkeys(("softmax", "log_softmax", "cat", "concat", "concatenate", "stack", "cumsum", "unbind"), "input dim"),
    **dict.fromkeys(("logsumexp", "argmax", "argmin", "max", "min", "mean", "sum", "amax", "amin", "prod"), "input dim keepdim"),
    **dict.fromkeys(("norm", "normalize"), "input p dim keepdim"),
    **dict.fromkeys(("gather", "take_along_dim"), "input dim index"),
    "index_select": "input dim index",
    "topk": "input k dim",
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), "input sizes dim"),
    "narrow": "input dim start length",
    "select": "input dim index",
    "flatten": "input start_dim",
    "repeat_interleave": "input repeats dim",
    **dict.fromkeys(("clamp", "clip", "hardtanh"), "input min max"),
    "clamp_min": "input min",
    "clamp_max": "input max",
    **dict.fromkeys(("pad", "constant_pad_nd"), "input pad mode value"),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), "input factor"),
    "layer_norm": "input normalized_shape",
    "rms_norm": "input normalized_shape",
    "group_norm": "input num_groups",
    "instance_norm": "input running_mean running_var weight bias use_input_stats",
    "einsum": "equation",
    **dict.fromkeys(("pow", "__pow__"), "input exponent"),
}
_OTHER_NAMES = {
    "axis": "dim",
    "min_val": "min",
    "max_val": "max",
    "split_size_or_sections": "sizes",
    "split_size": "sizes",
    "split_sizes": "sizes",
    "chunks": "sizes",
    "indices_or_sections": "sizes",
    "upscale_factor": "factor",
    "downscale_factor": "factor",
}


def attributes(
    op: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Any,
) -> dict[str, Any]:
    """Attributes of the node of one call. arguments: by the names of `operators.signature`."""
    name = lookup_name(function)
    if op in ("Conv", "ConvTranspose"):
        return _convolution(op, arguments)
    if op in RECURRENT:
        return {"cell": True} if name in CELLS else {}
    if op == "ConstantOfShape":
        return {"value": 0} if "zeros" in name else {}
    if op in ("Gemm", "MatMul"):
        return {"transB": 1} if "weight" in arguments else {}  # torch.nn.functional.linear: (out, in)
    given = dict(zip(_ARGUMENTS.get(name, "").split(), args, strict=False))
    given |= {_OTHER_NAMES.get(key, key): value for key, value in kwargs.items()}
    describe = _DESCRIPTIONS.get(op)
    if op.startswith("Reduce") or op in ("ArgMax", "ArgMin"):
        return _reduction(given)
    if op == "Transpose":
        return _permutation(function, args, kwargs)
    if op == "Slice":
        return _index(name, args, given)
    if op == "Gather":
        return _lookup(name, args, given)
    if op == "Split":
        return _parts(name, given, output)
    return {} if describe is None else describe(name, args, given)


def _convolution(op: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    shape = tuple(arguments["weight"].shape)
    rank = len(shape) - 2
    groups = arguments.get("groups", 1)
    channels = shape[1] * groups if op == "Conv" else shape[0]

    def per_dimension(value: Any) -> Any:
        value = 0 if value == "valid" else value
        value = (value,) if isinstance(value, int) else value
        return value if isinstance(value, str) else tuple(value) * (rank if len(value) == 1 else 1)

    padding = per_dimension(arguments.get("padding", 0))
    return {
        "groups": groups,
        "kernel": shape[2:],
        "strides": per_dimension(arguments.get("stride", 1)),
        **({"auto_pad": "SAME_UPPER"} if padding == "same" else {"pads": padding * 2}),
        "dilations": per_dimension(arguments.get("dilation", 1)),
        "depthwise": groups > 1 and groups == channels,
    }


def _axis(default: int | None) -> Callable[..., dict[str, Any]]:
    def describe(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
        axis = given.get("dim", default)
        return {} if axis is None else {"axis": axis}

    return describe


def _reduction(given: Mapping[str, Any]) -> dict[str, Any]:
    axes, keepdims = given.get("dim"), {"keepdims": int(given.get("keepdim") or 0)}
    return keepdims if axes is None or axes == () else {"axes": (axes,) if isinstance(axes, int) else tuple(axes), **keepdims}


def _permutation(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Asked of the function itself, with a tensor whose axes can be told apart by their sizes."""
    rank = args[0].dim()
    moved = function(torch.empty(tuple(range(2, rank + 2)), device="meta"), *args[1:], **kwargs)
    return {"perm": tuple(size - 2 for size in moved.shape)}


def _index(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """numpy's basic index: of slices, whole numbers, None and Ellipsis."""
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        basic = all(item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in index)
        return {"index": index} if basic and not any(isinstance(item, bool) for item in index) else {}
    start = given["start"] if name == "narrow" else given["index"]
    item = slice(start, start + given["length"]) if name == "narrow" else start
    if isinstance(start, torch.Tensor):
        return {}
    return {"index": (*[slice(None)] * (given["dim"] % args[0].dim()), item)}


def _lookup(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The axis. Not the indices, constant or not: they are the model's own, and would be others where channels have left."""
    if name == "index_select":
        return {"axis": given["dim"]}
    if name != "__getitem__":
        return {}
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    tensors = [at for at, item in enumerate(index) if isinstance(item, torch.Tensor)]
    full = all(item == slice(None) for at, item in enumerate(index) if at not in tensors)
    return {"axis": tensors[0]} if len(tensors) == 1 and full and index[tensors[0]].dtype != torch.bool else {}


def _parts(name: str, given: Mapping[str, Any], output: Sequence[torch.Tensor]) -> dict[str, Any]:
    axis = given.get("dim", 0)
    if name == "unbind":
        return {"axis": axis, "split": (1,) * len(output), "num_outputs": len(output), "keepdims": 0}
    sizes = {"axis": axis, "split": tuple(part.shape[axis] for part in output)}
    equal = name in ("chunk", "tensor_split") and isinstance(given.get("sizes"), int)
    return {**sizes, "num_outputs": len(output)} if equal else sizes


def _concatenation(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    rank = args[0][0].dim() if args else given["tensors"][0].dim()
    if name in ("hstack", "vstack"):
        return {"axis": 0 if name == "vstack" or rank == 1 else 1} if name == "hstack" or rank > 1 else {}
    return {"axis": given.get("dim", 0), **({"new_axis": 1} if name == "stack" else {})}


def _repetition(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """numpy's `tile`; with an `axis`, its `repeat`."""
    if name == "repeat_interleave":
        one = isinstance(given.get("repeats"), int) and given.get("dim") is not None
        return {"repeats": given["repeats"], "axis": given["dim"]} if one else {}
    repeats = given.get("repeats", given.get("dims", args[1] if len(args) == 2 else args[1:]))
    return {"repeats": (repeats,) if isinstance(repeats, int) else tuple(repeats)}


def _limits(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    if name == "relu6":
        return {"min": 0.0, "max": 6.0}
    limits = {"min": given.get("min", -1.0), "max": given.get("max", 1.0)} if name == "hardtanh" else given
    found = {key: limits.get(key) for key in ("min", "max")}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def _padding(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """torch counts (before, after) from the last axis on; ONNX all befores, then all afters."""
    rank, pad = args[0].dim(), [int(width) for width in given["pad"]]
    pad += [0] * (2 * rank - len(pad))
    mode = given.get("mode", "constant")
    value = given.get("value") if isinstance(mode, str) else mode  # constant_pad_nd(input, pad, value)
    return {
        "pads": tuple(pad[0::2][::-1] + pad[1::2][::-1]),
        "mode": mode if isinstance(mode, str) else "constant",
        "value": value or 0,
    }


def _exponent(name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    exponent = {"square": 2, "rsqrt": -0.5}.get(name, given.get("exponent"))
    return {"exponent": exponent} if isinstance(exponent, int | float) else {}


_DESCRIPTIONS: Mapping[str, Callable[..., dict[str, Any]]] = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), _axis(None)),
    **dict.fromkeys(("CumSum", "GatherElements"), _axis(None)),
    "TopK": _axis(-1),
    "LpNormalization": _axis(1),
    "PadSequence": lambda name, args, given: {"value": args[3]},
    "Flatten": lambda name, args, given: {"axis": given.get("start_dim", 0)},
    "Pow": _exponent,
    "Concat": _concatenation,
    "Tile": _repetition,
    "Clip": _limits,
    "Pad": _padding,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), lambda name, args, given: {"blocksize": given["factor"], "mode": "CRD"}),
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization"), lambda name, args, given: {"axis": -len(given["normalized_shape"])}
    ),
    "GroupNormalization": lambda name, args, given: {"num_groups": given["num_groups"]},
    "InstanceNormalization": lambda name, args, given: {} if given.get("use_input_stats", True) else {"running_statistics": True},
    "Einsum": lambda name, args, given: {"equation": given["equation"]} if isinstance(given.get("equation"), str) else {},
}
