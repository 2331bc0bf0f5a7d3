"""Tables: which ONNX operators a Keras layer, a keras operation, a `tf.*` function or an activation stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers as L

from nncf_ext_tensorflow.keras_private import kernel_attribute, unpatched_class

# keras.activations and keras.ops of one name are the same operator. "Silu" stands for Sigmoid and Mul (see trace.py).
_FUNCTIONS = {
    "relu": "Relu",
    "relu6": "Clip",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "celu": "Celu",
    "gelu": "Gelu",
    "silu": "Silu",
    "swish": "Silu",
    "hard_silu": "HardSwish",
    "hard_swish": "HardSwish",
    "mish": "Mish",
    "sigmoid": "Sigmoid",
    "hard_sigmoid": "HardSigmoid",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
    "exponential": "Exp",
    "erf": "Erf",
}

_OPERATIONS = {
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "TrueDivide": "Div",
    "Matmul": "MatMul",
    "Dot": "MatMul",
    "Einsum": "MatMul",
    "Conv": "Conv",
    "DepthwiseConv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "BatchNorm": "BatchNormalization",
    "LayerNorm": "LayerNormalization",
    "RMSNorm": "RMSNormalization",
    "Normalize": "LpNormalization",
    "DotProductAttention": "Attention",
    "MaxPool": "MaxPool",
    "AveragePool": "AveragePool",
    "Relu": "Relu",
    "Relu6": "Clip",
    "LeakyRelu": "LeakyRelu",
    "Elu": "Elu",
    "Selu": "Selu",
    "Celu": "Celu",
    "Gelu": "Gelu",
    "Silu": "Silu",
    "HardSilu": "HardSwish",
    "Sigmoid": "Sigmoid",
    "HardSigmoid": "HardSigmoid",
    "Softmax": "Softmax",
    "LogSoftmax": "LogSoftmax",
    "Softplus": "Softplus",
    "Softsign": "Softsign",
    "Tanh": "Tanh",
    "Erf": "Erf",
    "Exp": "Exp",
    "Log": "Log",
    "Sqrt": "Sqrt",
    "Reciprocal": "Reciprocal",
    "Negative": "Neg",
    "Absolute": "Abs",
    "Floor": "Floor",
    "Ceil": "Ceil",
    "Round": "Round",
    "Sign": "Sign",
    "Sin": "Sin",
    "Cos": "Cos",
    "Power": "Pow",
    "Square": "Pow",
    "Rsqrt": "Pow",
    "Mod": "Mod",
    "Maximum": "Max",
    "Minimum": "Min",
    "Clip": "Clip",
    "Concatenate": "Concat",
    "Stack": "Concat",
    "Hstack": "Concat",
    "Vstack": "Concat",
    "Split": "Split",
    "Unstack": "Split",
    "GetItem": "Slice",
    "Slice": "Slice",
    "Take": "Gather",
    "TakeAlongAxis": "GatherElements",
    "Reshape": "Reshape",
    "Ravel": "Reshape",
    "Transpose": "Transpose",
    "Swapaxes": "Transpose",
    "Moveaxis": "Transpose",
    "Squeeze": "Squeeze",
    "ExpandDims": "Unsqueeze",
    "BroadcastTo": "Expand",
    "Tile": "Tile",
    "Repeat": "Tile",
    "Pad": "Pad",
    "Resize": "Resize",
    "DepthToSpace": "DepthToSpace",
    "SpaceToDepth": "SpaceToDepth",
    "Mean": "ReduceMean",
    "Sum": "ReduceSum",
    "Prod": "ReduceProd",
    "Max": "ReduceMax",
    "Amax": "ReduceMax",
    "Min": "ReduceMin",
    "Amin": "ReduceMin",
    "Cumsum": "CumSum",
    "Argmax": "ArgMax",
    "Argmin": "ArgMin",
    "TopK": "TopK",
    "Where": "Where",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "LogicalNot": "Not",
    "Cast": "Cast",
    "StopGradient": "Identity",
    "Copy": "Identity",
}

_TF_FUNCTIONS = {
    "matmul": "MatMul",
    "einsum": "MatMul",
    "add": "Add",
    "bias_add": "Add",
    "add_n": "Sum",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "truediv": "Div",
    "pow": "Pow",
    "square": "Pow",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "abs": "Abs",
    "maximum": "Max",
    "minimum": "Min",
    "clip_by_value": "Clip",
    "concat": "Concat",
    "stack": "Concat",
    "split": "Split",
    "unstack": "Split",
    "strided_slice": "Slice",
    "slice": "Slice",
    "gather": "Gather",
    "embedding_lookup": "Gather",
    "reshape": "Reshape",
    "transpose": "Transpose",
    "squeeze": "Squeeze",
    "expand_dims": "Unsqueeze",
    "broadcast_to": "Expand",
    "tile": "Tile",
    "pad": "Pad",
    "reduce_mean": "ReduceMean",
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "conv1d": "Conv",
    "conv2d": "Conv",
    "conv3d": "Conv",
    "depthwise_conv2d": "Conv",
    "conv2d_transpose": "ConvTranspose",
    "avg_pool": "AveragePool",
    "avg_pool1d": "AveragePool",
    "avg_pool2d": "AveragePool",
    "avg_pool3d": "AveragePool",
    "max_pool": "MaxPool",
    "max_pool1d": "MaxPool",
    "max_pool2d": "MaxPool",
    "max_pool3d": "MaxPool",
    "cast": "Cast",
    "identity": "Identity",
    "stop_gradient": "Identity",
    "shape": "Shape",
    "where": "Where",
}
# Names of `tf.*` functions where Python sees another one than the user wrote.
_TF_ALIASES = {"_v2": "", "_with_default": ""}

# Layers without weights that are one operator.
_LAYERS: Mapping[type, str] = {
    L.Add: "Add",
    L.Subtract: "Sub",
    L.Multiply: "Mul",
    L.Average: "Mean",
    L.Maximum: "Max",
    L.Minimum: "Min",
    L.Concatenate: "Concat",
    L.Dot: "MatMul",
    L.ReLU: "Relu",
    L.LeakyReLU: "LeakyRelu",
    L.ELU: "Elu",
    L.Softmax: "Softmax",
    L.MaxPooling1D: "MaxPool",
    L.MaxPooling2D: "MaxPool",
    L.MaxPooling3D: "MaxPool",
    L.AveragePooling1D: "AveragePool",
    L.AveragePooling2D: "AveragePool",
    L.AveragePooling3D: "AveragePool",
    L.GlobalAveragePooling1D: "GlobalAveragePool",
    L.GlobalAveragePooling2D: "GlobalAveragePool",
    L.GlobalAveragePooling3D: "GlobalAveragePool",
    L.GlobalMaxPooling1D: "GlobalMaxPool",
    L.GlobalMaxPooling2D: "GlobalMaxPool",
    L.GlobalMaxPooling3D: "GlobalMaxPool",
    L.Reshape: "Reshape",
    L.Flatten: "Flatten",
    L.UpSampling1D: "Resize",
    L.UpSampling2D: "Resize",
    L.UpSampling3D: "Resize",
    L.Resizing: "Resize",
    L.Identity: "Identity",
    L.Dropout: "Identity",
    L.SpatialDropout1D: "Identity",
    L.SpatialDropout2D: "Identity",
    L.SpatialDropout3D: "Identity",
    L.AlphaDropout: "Identity",
    L.GaussianDropout: "Identity",
    L.GaussianNoise: "Identity",
    L.ActivityRegularization: "Identity",
    L.Masking: "Masking",
}


@dataclass(frozen=True)
class Weight:
    """A weight of a layer by its attribute there; the axes and port as in `nncf_ext.graph.Parameter`."""

    slot: str
    attribute: str
    channel_axis: int | None
    port: int
    input_axis: int | None = None


@dataclass(frozen=True)
class Stage:
    """One operator of a layer. `name` is "" for the layer's main one, else the last part of the node's name.

    point: the name, in apply.py, of the tensor that the stage hands to the next one.
    data_port: ONNX's port for the layer's first input. output_shape: where it is not the shape of the layer's output.
    """

    op: str
    name: str = ""
    point: str = "output"
    weights: tuple[Weight, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    data_port: int = 0
    output_shape: tuple[int | None, ...] | None = None


_LAYER_ATTRS = ("axis", "axes", "data_format", "strides", "padding", "pool_size", "keepdims")


def stages_of(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage] | None:
    """The operators that a layer of Keras runs one after the other; None for a layer that is not in the tables.

    A user's subclass counts as its parent where it does not override `call`.
    """
    for kind, describe in _DESCRIPTIONS.items():
        if isinstance(layer, kind) and unpatched_class(layer).call is kind.call:
            return describe(layer, input_shape)
    for kind, op in _LAYERS.items():
        if isinstance(layer, kind) and unpatched_class(layer).call is kind.call:
            if kind is L.ReLU and (layer.max_value is not None or layer.negative_slope or layer.threshold):
                op = "Clip" if layer.max_value is not None and not layer.negative_slope else "LeakyRelu"
            return [Stage(op, attrs=_public_attrs(layer, *_LAYER_ATTRS))]
    return None


def activation_op(function: Callable[..., Any]) -> str:
    """ONNX operator of an activation function; its own name where there is none."""
    name = activation_name(function)
    is_known = getattr(keras.activations, name, None) is function or getattr(keras.ops, name, None) is function
    return _FUNCTIONS.get(name, name) if is_known else name


def activation_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", None) or getattr(function, "name", type(function).__name__)


def operation_op(operation: Any) -> str:
    """ONNX operator of a keras.ops operation; its class name where there is none."""
    name = unpatched_class(operation).__name__
    return _OPERATIONS.get(name, name)


def tf_function_op(name: str) -> str:
    """ONNX operator of a `tf.*` function by name; the name itself where there is none."""
    for ending, replacement in _TF_ALIASES.items():
        name = name.removesuffix(ending) + replacement if name.endswith(ending) else name
    return _TF_FUNCTIONS.get(name, _FUNCTIONS.get(name, name))


def operand_axes(op: str, operation: Any, port: int, rank: int) -> tuple[int | None, int | None]:
    """(axis of the output channels, of the input channels) in a variable of that rank that an operation is given on `port`."""
    if op == "ConvTranspose":
        return rank - 2, rank - 1
    if unpatched_class(operation).__name__ == "DepthwiseConv":
        return rank - 2, rank - 2
    return rank - 1, rank - 2 if op in ("Conv", "MatMul", "Gemm") and port == 1 else None


def _activation(layer: Any) -> list[Stage]:
    function = getattr(layer, "activation", None)
    if function is None or function is keras.activations.linear:
        return []
    return [Stage(activation_op(function), activation_name(function))]


def _then_activation(main: Stage, layer: Any) -> list[Stage]:
    activation = _activation(layer)
    if not activation:
        return [main]
    return [Stage(main.op, main.name, "activation", main.weights, main.attrs, main.data_port), *activation]


def _public_attrs(layer: Any, *names: str) -> dict[str, Any]:
    found = {name: getattr(layer, name) for name in names if getattr(layer, name, None) is not None}
    return {name: value for name, value in found.items() if isinstance(value, (int, float, str, bool, tuple, list))}


def _with_bias(layer: Any, *weights: Weight) -> tuple[Weight, ...]:
    return (*weights, Weight("bias", "bias", 0, 2)) if getattr(layer, "bias", None) is not None else weights


def _spatial_attrs(layer: Any) -> dict[str, Any]:
    """By ONNX's names, those that a Keras layer has otherwise too."""
    rank, dilations = layer.rank, tuple(layer.dilation_rate)
    pads: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
    if layer.padding == "causal":
        pads = {"pads": (dilations[0] * (layer.kernel_size[0] - 1), 0)}
    elif layer.padding == "valid":
        pads = {"pads": (0,) * (2 * rank)}
    return {
        **_public_attrs(layer, "data_format", "strides", "padding", "groups"),
        "kernel": tuple(layer.kernel_size),
        "dilations": dilations,
        **pads,
    }


def _channels(layer: Any, input_shape: tuple[int | None, ...]) -> int | None:
    return input_shape[-1] if layer.data_format == "channels_last" else input_shape[1]


def _conv(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    kernel = Weight("weight", kernel_attribute(layer), layer.rank + 1, 1, layer.rank)  # (*spatial, in / groups, out)
    depthwise = layer.groups > 1 and layer.groups == _channels(layer, input_shape)
    attrs = {**_spatial_attrs(layer), "depthwise": depthwise}
    return _then_activation(Stage("Conv", weights=_with_bias(layer, kernel), attrs=attrs), layer)


def _conv_transpose(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    kernel = Weight("weight", kernel_attribute(layer), layer.rank, 1, layer.rank + 1)  # (*spatial, out, in)
    return _then_activation(Stage("ConvTranspose", weights=_with_bias(layer, kernel), attrs=_spatial_attrs(layer)), layer)


def _depthwise_attrs(layer: Any, input_shape: tuple[int | None, ...]) -> dict[str, Any]:
    return {**_spatial_attrs(layer), "groups": _channels(layer, input_shape), "depthwise": True}


def _depthwise_conv(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    kernel = Weight("weight", kernel_attribute(layer), layer.rank, 1, layer.rank)  # (*spatial, in, multiplier)
    return _then_activation(Stage("Conv", weights=_with_bias(layer, kernel), attrs=_depthwise_attrs(layer, input_shape)), layer)


def _separable_conv(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    first = Weight("weight", "depthwise_kernel", layer.rank, 1, layer.rank)
    second = Weight("weight", "pointwise_kernel", layer.rank + 1, 1, layer.rank)
    ones = (1,) * layer.rank
    places = {"kernel": ones, "strides": ones, "dilations": ones, "pads": (0,) * (2 * layer.rank)}
    attrs = {"data_format": layer.data_format, "groups": 1, "depthwise": False, **places}
    pointwise = Stage("Conv", weights=_with_bias(layer, second), attrs=attrs)
    shape = _depthwise_shape(layer, input_shape)
    depthwise = Stage("Conv", "depthwise", "pointwise", (first,), _depthwise_attrs(layer, input_shape), output_shape=shape)
    return [depthwise, *_then_activation(pointwise, layer)]


def _depthwise_shape(layer: Any, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Output shape of the depthwise part of a separable convolution."""
    shape = list(layer.compute_output_shape(input_shape))
    channels = layer.depthwise_kernel.shape[-2] * layer.depthwise_kernel.shape[-1]
    shape[-1 if layer.data_format == "channels_last" else 1] = channels
    return tuple(shape)


def _dense(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    kernel = Weight("weight", kernel_attribute(layer), 1, 1, 0)
    op = "Gemm" if len(input_shape) == 2 else "MatMul"
    return _then_activation(Stage(op, weights=_with_bias(layer, kernel), attrs={"data_format": "channels_last"}), layer)


def _einsum_dense(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    """The channels are the last kernel axis that reaches the output."""
    operands, output = layer.equation.split("->")
    labels = operands.split(",")[1].replace("...", "")
    axes = [axis for axis, label in enumerate(labels) if label in output]
    kernel = Weight("weight", kernel_attribute(layer), axes[-1] if axes else None, 1)
    attrs = {"equation": layer.equation, "data_format": "channels_last"}
    return _then_activation(Stage("MatMul", weights=_with_bias(layer, kernel), attrs=attrs), layer)


def _embedding(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [
        Stage("Gather", weights=(Weight("weight", kernel_attribute(layer, "embeddings"), 1, 0),), attrs={"axis": 0}, data_port=1)
    ]


def _scale_and_shift(layer: Any, extra: tuple[Weight, ...] = ()) -> tuple[Weight, ...]:
    gamma = (Weight("weight", "gamma", 0, 1),) if getattr(layer, "gamma", None) is not None else ()
    beta = (Weight("bias", "beta", 0, 2),) if getattr(layer, "beta", None) is not None else ()
    return (*gamma, *beta, *extra)


def _batch_norm(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    moments = (Weight("mean", "moving_mean", 0, 3), Weight("variance", "moving_variance", 0, 4))
    rank = len(input_shape)
    data_format = "channels_last" if layer.axis % rank == rank - 1 else "channels_first"
    attrs = {"axis": layer.axis, "epsilon": layer.epsilon, "data_format": data_format}
    return [Stage("BatchNormalization", weights=_scale_and_shift(layer, moments), attrs=attrs)]


def _layer_norm(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    axis = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    attrs = {"axis": axis, "epsilon": layer.epsilon}
    return [Stage("LayerNormalization", weights=_scale_and_shift(layer), attrs=attrs)]


def _rms_norm(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    axis = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    scale = (Weight("weight", "scale", 0, 1),)
    return [Stage("RMSNormalization", weights=scale, attrs={"axis": axis, "epsilon": layer.epsilon})]


def _group_norm(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    attrs = {"axis": layer.axis, "epsilon": layer.epsilon, "num_groups": layer.groups}
    return [Stage("GroupNormalization", weights=_scale_and_shift(layer), attrs=attrs)]


def _permute(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [Stage("Transpose", attrs={"perm": (0, *layer.dims)})]


def _repeat_vector(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [Stage("Tile", attrs={"axis": 1, "new_axis": 1, "repeats": layer.n})]


def _cropping(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    widths = [tuple(layer.cropping)] if isinstance(layer, L.Cropping1D) else [tuple(width) for width in layer.cropping]
    spatial = tuple(slice(before, -after or None) for before, after in widths)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return [Stage("Slice", attrs={"index": (slice(None),) * (2 if first else 1) + spatial})]


def _zero_padding(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    widths = [(width, width) if isinstance(width, int) else tuple(width) for width in layer.padding]
    if isinstance(layer, L.ZeroPadding1D):
        widths = [tuple(layer.padding)]
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    widths = [(0, 0), (0, 0), *widths] if first else [(0, 0), *widths, (0, 0)]
    return [Stage("Pad", attrs={"pads": tuple(before for before, _ in widths) + tuple(after for _, after in widths)})]


def _activation_layer(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [Stage(stage.op) for stage in _activation(layer)] or [Stage("Identity")]


def _prelu(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [Stage("PRelu", weights=(Weight("weight", "alpha", None, 1),))]


def _rescaling(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [Stage("Mul", "scale", ""), Stage("Add")]


def _normalization(layer: Any, input_shape: tuple[int | None, ...]) -> list[Stage]:
    return [Stage("Sub", "mean", ""), Stage("Div")]


_DESCRIPTIONS: Mapping[Any, Callable[[Any, tuple[int | None, ...]], list[Stage]]] = {
    L.DepthwiseConv1D: _depthwise_conv,
    L.DepthwiseConv2D: _depthwise_conv,
    L.SeparableConv1D: _separable_conv,
    L.SeparableConv2D: _separable_conv,
    L.Conv1DTranspose: _conv_transpose,
    L.Conv2DTranspose: _conv_transpose,
    L.Conv3DTranspose: _conv_transpose,
    L.Conv1D: _conv,
    L.Conv2D: _conv,
    L.Conv3D: _conv,
    L.Dense: _dense,
    L.EinsumDense: _einsum_dense,
    L.Embedding: _embedding,
    L.BatchNormalization: _batch_norm,
    L.LayerNormalization: _layer_norm,
    L.RMSNormalization: _rms_norm,
    L.GroupNormalization: _group_norm,
    L.Permute: _permute,
    L.RepeatVector: _repeat_vector,
    L.Cropping1D: _cropping,
    L.Cropping2D: _cropping,
    L.Cropping3D: _cropping,
    L.ZeroPadding1D: _zero_padding,
    L.ZeroPadding2D: _zero_padding,
    L.ZeroPadding3D: _zero_padding,
    L.Activation: _activation_layer,
    L.PReLU: _prelu,
    L.Rescaling: _rescaling,
    L.Normalization: _normalization,
}
