"""Which attributes of a Keras layer (and so which keys of its config) state the sizes of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import numpy as np
from keras import layers as L

from nncf_ext_tensorflow import keras_private

# What stays of a layer's variables: attribute that holds one -> axis -> indices (sorted).
Kept = Mapping[str, Mapping[int, np.ndarray]]


def sizes_of(layer: Any, kept: Kept) -> dict[str, Any]:
    """New values of the attributes of a layer of Keras, whose variables have their new shapes already.

    ValueError for a layer of Keras whose sizes are not known here, and where no value of an attribute says what is left.
    """
    if getattr(layer, "lora_enabled", False):
        raise ValueError("it has LoRA weights: merge them into the kernel first")
    if getattr(layer, "quantization_mode", None) is not None:
        raise ValueError(f"Keras itself quantized it to {layer.quantization_mode}")
    for kind, sizes in _SIZES.items():
        if isinstance(layer, kind):
            return sizes(layer, kept)
    if keras_private.is_part_of_keras(layer):
        raise ValueError(f"a {type(layer).__name__} cannot change its size")
    return {}


def sizes_in_users_layer(layer: Any, old_shapes: Mapping[int, tuple[int, ...]], which: str) -> dict[str, Any]:
    """Whole numbers in the config of a layer of the user's that can only be the size of an axis that has changed.

    old_shapes: of the variables (by id) that have changed. which: the layer's "own" variables count, those of the layers in it
    too ("all"), or "none". A size that other axes have too, or that became different ones, is left as it is: whether the layer
    then computes what it did shows where it runs.
    """
    variables = {"own": keras_private.own_variables(layer), "all": layer.variables, "none": []}[which]
    new_sizes: dict[int, set[int]] = {}
    for variable in variables:
        for old, new in zip(old_shapes.get(id(variable), tuple(variable.shape)), variable.shape, strict=True):
            new_sizes.setdefault(old, set()).add(new)
    changed = {old: next(iter(new)) for old, new in new_sizes.items() if len(new) == 1 and new != {old}}
    try:
        config = layer.get_config() if changed else {}
    except NotImplementedError:
        return {}
    keys = {key: changed[value] for key, value in config.items() if type(value) is int and value in changed}
    sizes: dict[str, Any] = {
        name: size for key, size in keys.items() for name in (key, f"_{key}") if vars(layer).get(name) == config[key]
    }
    return {**sizes, **keras_private.automatic_config(layer, keys)}


def state_sizes(layer: Any) -> dict[str, Any]:
    """The same for a layer that runs cells, which have changed."""
    size = layer.cell.state_size
    return {"state_size": [size] if isinstance(size, int) else list(size)}


def queries_factor(layer: Any, size_before: int) -> float:
    """What to multiply the queries of an attention layer with, since it divides them by the root of a new size."""
    return sqrt(keras_private.head_size(layer) / size_before)


def groups_left(kept: np.ndarray | None, size: int, groups: int) -> int:
    """How many of `groups` equal groups of `size` channels are left. ValueError where they are not equal any more."""
    if kept is None or groups == 1:
        return groups
    counts = np.bincount(kept // (size // groups), minlength=groups)
    counts = counts[counts > 0]
    if (counts != counts[0]).any():
        raise ValueError(f"its groups would have {counts.min()} to {counts.max()} channels, expected equally many in each")
    return len(counts)


def _conv(layer: Any, kept: Kept) -> dict[str, Any]:
    filters = kept.get(keras_private.kernel_attribute(layer), {}).get(layer.rank + 1)
    return {"filters": layer.kernel.shape[-1], "groups": groups_left(filters, layer.filters, layer.groups)}


def _conv_transpose(layer: Any, kept: Kept) -> dict[str, Any]:
    return {"filters": layer.kernel.shape[-2]}


def _depthwise_conv(layer: Any, kept: Kept) -> dict[str, Any]:
    return {"depth_multiplier": layer.kernel.shape[-1]}


def _separable_conv(layer: Any, kept: Kept) -> dict[str, Any]:
    return {"depth_multiplier": layer.depthwise_kernel.shape[-1], "filters": layer.pointwise_kernel.shape[-1]}


def _dense(layer: Any, kept: Kept) -> dict[str, Any]:
    return {"units": layer.kernel.shape[1]}


def _embedding(layer: Any, kept: Kept) -> dict[str, Any]:
    return {"input_dim": layer.embeddings.shape[0], "output_dim": layer.embeddings.shape[1]}


def _einsum_dense(layer: Any, kept: Kept) -> dict[str, Any]:
    operands, output = layer.equation.split("->")
    labels = operands.split(",")[1]
    sizes = dict(zip(labels, layer.kernel.shape, strict=True))
    shape = list(layer.partial_output_shape)
    # Without its ellipsis and its first label, which is the batch, the output's labels are the entries of `output_shape`.
    names = output.removeprefix("...") if output.startswith("...") else output.removesuffix("...")[1:]
    for position, label in enumerate(reversed(names), 1):
        if label in sizes and position <= len(shape):
            shape[-position] = sizes[label]
    return {"partial_output_shape": tuple(shape)}


def _group_norm(layer: Any, kept: Kept) -> dict[str, Any]:
    of = next(iter(kept.values())).get(0)
    size = next(len(v.shape) and int(v.shape[0]) for v in (layer.gamma, layer.beta) if v is not None)
    removed = 0 if of is None else layer.input_spec.axes[layer.axis] - size
    return {"groups": groups_left(of, size + removed, layer.groups)}


def _lstm_cell(layer: Any, kept: Kept) -> dict[str, Any]:
    return {**_cell(layer, kept), "state_size": [layer.recurrent_kernel.shape[0]] * 2}


def _cell(layer: Any, kept: Kept) -> dict[str, Any]:
    return dict.fromkeys(("units", "state_size", "output_size"), layer.recurrent_kernel.shape[0])


def _no_sizes(layer: Any, kept: Kept) -> dict[str, Any]:
    return {}


_SIZES: Mapping[Any, Callable[[Any, Kept], dict[str, Any]]] = {
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
    L.LSTMCell: _lstm_cell,
    L.GRUCell: _cell,
    L.SimpleRNNCell: _cell,
    L.GroupNormalization: _group_norm,
    L.BatchNormalization: _no_sizes,
    L.LayerNormalization: _no_sizes,
    L.RMSNormalization: _no_sizes,
    L.PReLU: _no_sizes,
}
