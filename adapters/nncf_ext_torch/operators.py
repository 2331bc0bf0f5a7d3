"""What each torch function is called in ONNX, and which of its arguments are weights.

Functions are looked up by the name that a `TorchFunctionMode` sees (`relu`, `__getitem__`, `add_`); the in-place form of a
function is the same operator. A function that is not here has no operator type of its own: its node is opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_NAMES_BY_TYPE = {
    # weighted
    "Conv": "conv1d conv2d conv3d",
    "ConvTranspose": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "MatMul": "matmul mm bmm mv __matmul__ __rmatmul__ baddbmm",
    "Gemm": "addmm",
    "Gather": "embedding index_select",
    "Attention": "scaled_dot_product_attention",
    "LSTM": "lstm lstm_cell",
    "GRU": "gru gru_cell",
    "RNN": "rnn_tanh rnn_relu rnn_tanh_cell rnn_relu_cell",
    "PackSequence": "_pack_padded_sequence",
    "PadSequence": "_pad_packed_sequence",
    # normalization
    "BatchNormalization": "batch_norm",
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "rms_norm",
    "GroupNormalization": "group_norm",
    "InstanceNormalization": "instance_norm",
    "LRN": "local_response_norm",
    "LpNormalization": "normalize",
    # arithmetic
    "Add": "add __add__ __radd__ __iadd__",
    "Sub": "sub subtract rsub __sub__ __rsub__ __isub__",
    "Mul": "mul multiply __mul__ __rmul__ __imul__",
    "Div": "div divide true_divide __truediv__ __itruediv__ __rtruediv__ __rdiv__ reciprocal",
    "Pow": "pow __pow__ __rpow__ square rsqrt",
    "Mod": "fmod remainder __mod__",
    "Neg": "neg negative",
    "Abs": "abs absolute",
    "Sqrt": "sqrt",
    "Exp": "exp",
    "Log": "log",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign sgn",
    "Max": "maximum",
    "Min": "minimum",
    # activations
    "Relu": "relu",
    "Clip": "relu6 hardtanh clamp clip clamp_min clamp_max",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "Elu": "elu",
    "Selu": "selu",
    "Celu": "celu",
    "Gelu": "gelu",
    "Swish": "silu",
    "Mish": "mish",
    "HardSwish": "hardswish",
    "HardSigmoid": "hardsigmoid",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "ThresholdedRelu": "threshold",
    # pooling and resampling
    "MaxPool": "max_pool1d max_pool2d max_pool3d",
    "AveragePool": "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    "Resize": "interpolate upsample",
    "DepthToSpace": "pixel_shuffle",
    "SpaceToDepth": "pixel_unshuffle",
    "Pad": "pad constant_pad_nd",
    # reductions
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "amax max",
    "ReduceMin": "amin min",
    "ReduceProd": "prod",
    "ReduceL2": "norm",
    "ReduceLogSumExp": "logsumexp",
    "ArgMax": "argmax",
    "ArgMin": "argmin",
    "TopK": "topk",
    "CumSum": "cumsum",
    # shape
    "Reshape": "reshape view view_as reshape_as unflatten _unsafe_view",
    "Flatten": "flatten ravel",
    "Transpose": "transpose permute movedim moveaxis swapaxes swapdims t T mT H adjoint",
    "Squeeze": "squeeze",
    "Unsqueeze": "unsqueeze",
    "Expand": "expand expand_as broadcast_to",
    "Tile": "repeat tile repeat_interleave",
    "Concat": "cat concat concatenate stack hstack vstack",
    "Split": "split split_with_sizes chunk tensor_split unbind",
    "Slice": "__getitem__ narrow select",
    "GatherElements": "gather take_along_dim",
    "ScatterElements": "scatter scatter_add",
    "ScatterND": "__setitem__ index_put index_copy index_add",
    "Where": "where masked_fill",
    "Trilu": "tril triu",
    "OneHot": "one_hot",
    "Einsum": "einsum",
    # no arithmetic in inference
    "Identity": "contiguous clone detach to float double half bfloat16 int long bool type type_as data alias positive "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout requires_grad_ cpu cuda",
    # constants
    "ConstantOfShape": "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty",
    "Constant": "tensor as_tensor scalar_tensor new_tensor",
    "Range": "arange",
    # comparison and logic
    "Less": "lt less __lt__",
    "LessOrEqual": "le less_equal __le__",
    "Greater": "gt greater __gt__",
    "GreaterOrEqual": "ge greater_equal __ge__",
    "Equal": "eq __eq__",
    "Not": "logical_not bitwise_not __invert__",
    "And": "logical_and bitwise_and __and__ __iand__ __rand__",
    "Or": "logical_or bitwise_or __or__ __ior__ __ror__",
    "Xor": "logical_xor bitwise_xor __xor__",
    "IsNaN": "isnan",
}
_TYPE_BY_NAME = {name: op for op, names in _NAMES_BY_TYPE.items() for name in names.split()}

# Tensor methods that the Python operators arrive as: named as NNCF 2.x names the operator.
_OPERATOR_NAMES: dict[Any, str] = {
    torch.Tensor.add: "__add__",
    torch.Tensor.add_: "__iadd__",
    torch.Tensor.sub: "__sub__",
    torch.Tensor.sub_: "__isub__",
    torch.Tensor.mul: "__mul__",
    torch.Tensor.mul_: "__imul__",
    torch.Tensor.div: "__truediv__",
    torch.Tensor.div_: "__itruediv__",
    torch.Tensor.matmul: "__matmul__",
    torch.Tensor.pow: "__pow__",
}


@dataclass(frozen=True)
class Signature:
    """Arguments of a torch function in order, and the ONNX input port of those that are tensors."""

    arguments: tuple[str, ...]
    ports: Mapping[str, int]
    channel_axis: int | None = 0  # of the weight, negative from the end; None: not a weight to be compressed per channel
    input_axis: int | None = None  # the same for the input channels, where the operator sums over them


def _signature(arguments: str, channel_axis: int | None = 0, input_axis: int | None = None, **ports: int) -> Signature:
    return Signature(tuple(arguments.split()), ports, channel_axis, input_axis)


_CONV = _signature("input weight bias stride padding dilation groups", input_axis=1, input=0, weight=1, bias=2)
_CONV_TRANSPOSE = _signature("input weight bias stride padding output_padding groups dilation", 1, 0, input=0, weight=1, bias=2)
_ELEMENTWISE = " ".join(_NAMES_BY_TYPE[op] for op in ("Add", "Sub", "Mul", "Div")).split()
_SIGNATURES = {
    **dict.fromkeys(_NAMES_BY_TYPE["Conv"].split(), _CONV),
    **dict.fromkeys(_NAMES_BY_TYPE["ConvTranspose"].split(), _CONV_TRANSPOSE),
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), _signature("input other", -1, -2, input=0, other=1)),
    "linear": _signature("input weight bias", input_axis=1, input=0, weight=1, bias=2),
    "addmm": _signature("input mat1 mat2", -1, -2, mat1=0, mat2=1, input=2),
    "baddbmm": _signature("input batch1 batch2", -1, -2, batch1=0, batch2=1, input=2),
    "embedding": _signature("input weight", channel_axis=1, input=1, weight=0),
    "batch_norm": _signature("input running_mean running_var weight bias", input=0, weight=1, bias=2),
    "instance_norm": _signature("input running_mean running_var weight bias", input=0, weight=1, bias=2),
    "layer_norm": _signature("input normalized_shape weight bias", input=0, weight=1, bias=2),
    "rms_norm": _signature("input normalized_shape weight", input=0, weight=1),
    "group_norm": _signature("input num_groups weight bias", input=0, weight=1, bias=2),
    "prelu": _signature("input weight", input=0, weight=1),
    **dict.fromkeys(_ELEMENTWISE, _signature("input other", None, input=0, other=1)),
    **dict.fromkeys(("__rtruediv__", "__rdiv__", "reciprocal"), _signature("input other", None, other=0, input=1)),
    "scaled_dot_product_attention": _signature("query key value attn_mask", query=0, key=1, value=2, attn_mask=3),
}
# Where a parameter is the main weight of an operator, and where its bias.
_WEIGHT_ARGUMENTS = frozenset({"weight", "other", "mat2", "batch2"})
# Operators whose operand is a parameter that is laid out for another operator.
LAYOUT = frozenset({"Expand", "Concat", "Reshape", "Unsqueeze", "Slice", "Gather"})
_LEFT_OPERANDS = frozenset({"matmul", "mm", "bmm", "__matmul__"})


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function as NNCF 2.x spells it in node names."""
    try:
        if function in _OPERATOR_NAMES:
            return _OPERATOR_NAMES[function]
    except TypeError:  # unhashable
        pass
    return getattr(function, "__name__", type(function).__name__)


def lookup_name(function: Callable[..., Any]) -> str:
    """The name that a function has in the tables."""
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":  # a property of Tensor: `x.T`
        return getattr(getattr(function, "__self__", None), "__name__", name)
    if name not in _TYPE_BY_NAME and name.endswith("_") and not name.endswith("__"):
        return name[:-1]
    return name


def signature(function: Callable[..., Any]) -> Signature | None:
    return _SIGNATURES.get(lookup_name(function))


def parameter_slot(function: Callable[..., Any], argument: str) -> str | None:
    """Slot ("weight", "bias") that a parameter given as `argument` has at the operator; None where it is just a constant.

    What is added is a bias, what is multiplied with a weight.
    """
    name = lookup_name(function)
    if name in _ELEMENTWISE:
        return "bias" if _TYPE_BY_NAME[name] in ("Add", "Sub") else "weight"
    if argument in _WEIGHT_ARGUMENTS:
        return "weight"
    if argument == "bias" or (argument == "input" and name in ("addmm", "baddbmm")):
        return "bias"
    return "weight" if argument == "input" and name in _LEFT_OPERANDS else None


def channel_axis(function: Callable[..., Any], argument: str | None, shape: tuple[int, ...]) -> int | None:
    """Axis of the output channels in a weight of that shape, given as `argument`."""
    found = signature(function)
    if found is None or argument is None or found.channel_axis is None or not shape:
        return None
    if parameter_slot(function, argument) == "bias":
        return len(shape) - 1
    axis = -2 if argument == "input" else found.channel_axis  # W @ x: the rows of W are the output channels
    return axis % len(shape) if -len(shape) <= axis < len(shape) else 0


def input_axis(function: Callable[..., Any], argument: str | None, shape: tuple[int, ...]) -> int | None:
    """Axis of the input channels in a weight of that shape, given as `argument`; None where there is none."""
    found = signature(function)
    if found is None or argument is None or found.input_axis is None:
        return None
    if len(shape) < 2 or parameter_slot(function, argument) != "weight":
        return None
    axis = -1 if argument == "input" else found.input_axis
    return axis % len(shape)


def operator_type(function: Callable[..., Any], arguments: Mapping[str, Any], args: tuple[Any, ...], output: Any) -> str:
    """ONNX operator type of one call, or the function's own name where there is none.

    arguments: the call's arguments by the names of `signature`; args: the positional ones.
    """
    name = lookup_name(function)
    if name == "linear":
        return "MatMul" if arguments.get("bias") is None else "Gemm"
    if name.startswith("adaptive_avg_pool") and all(size == 1 for size in output.shape[-int(name[-2]) :]):
        return "GlobalAveragePool"
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return "Max" if name == "max" else "Min"
    if name == "__getitem__" and _has_tensor(args[1:]):
        return "Gather"
    op = _TYPE_BY_NAME.get(name, name)
    if op == "Identity" and args and isinstance(args[0], torch.Tensor) and output.dtype != args[0].dtype:
        return "Cast"
    return op


def _has_tensor(index: Any) -> bool:
    return isinstance(index, torch.Tensor) or (isinstance(index, (tuple, list)) and any(map(_has_tensor, index)))
