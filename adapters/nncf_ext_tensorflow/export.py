"""A compressed Keras model as an ONNX graph in which every quantizer is one marker node.

tf2onnx knows no operator of ours, TensorFlow folds constants before it sees them, and it moves transposes (NHWC to NCHW) only
through operators it knows. So on the way through it a quantizer of activations is a LeakyRelu with an impossible slope, which
transposes may pass, and a quantized weight is an input of the converted function. Both become markers afterwards. Where there are
ranges by channel, a product with a number for each channel follows, which transposes turn with the tensor, and another LeakyRelu,
so that the product is not merged with what comes next.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf

from nncf_ext.edits import Edit
from nncf_ext.export.constants import add_constant, constant
from nncf_ext.export.marked import marker
from nncf_ext.export.rewiring import only_user, replace_node
from nncf_ext_tensorflow.attach import KerasAttached
from nncf_ext_tensorflow.fourier import write_fourier
from nncf_ext_tensorflow.keras_private import functional_of, has_assets, layers_in, unpatched_class
from nncf_ext_tensorflow.naming import named_inputs

OPSET = 18
_SLOPE = 1000.0  # slope of the first quantizer's LeakyRelu; the others count on from here
_END = 500.0  # slope of the LeakyRelu behind a product with numbers for channels
_WEIGHT = "nncf_ext_weight_"  # names of the inputs that are quantized weights


def export_marked(attached: KerasAttached, example: Any, free: Mapping[str, Mapping[int, str]], marked: Collection[str]) -> Any:
    """The model in inference mode as an `onnx_ir.Model`; masks are applied, the edits `marked` are markers with their key.

    It computes in float32. The batch axis is free, and those in `free` are. Inputs are named as
    `named_inputs` does, outputs as the model's.
    """
    model = attached.model
    _refuse_vocabularies(model)
    inputs, names = _input_specs(model, example, free)
    quantizers = [edit for edit in attached.plan if edit.key in marked]
    weights = _float_weights(attached, quantizers)
    known = _known(attached, quantizers)
    specs = [tf.TensorSpec(value.shape, value.dtype, _WEIGHT + str(number)) for number, value in enumerate(weights.values())]

    def convert(*tensors: Any) -> Any:
        given, placeholders = tensors[: len(inputs)], dict(zip(weights, tensors[len(inputs) :], strict=True))

        def stand_in(edit: Edit) -> Callable[[Any, Any], Any]:
            def instead(x: Any, variable: Any) -> Any:
                if variable is not None and (edit.key, id(variable)) in placeholders:
                    return tf.cast(placeholders[edit.key, id(variable)], x.dtype)
                if edit.key in known:
                    return tf.cast(known[edit.key], x.dtype)
                return _stand_in(x, slope=_SLOPE + quantizers.index(edit), axis=_channel_axis(edit))

            return instead

        replaced = [edit for edit in attached.plan if edit in quantizers or edit.key in known]
        with attached.replaced(replaced, stand_in), _functions_inlined():
            outputs = model(keras.tree.pack_sequence_as(_structure(model, example), list(given)), training=False)
        return [_in_float32(output) for output in keras.tree.flatten(outputs)]

    graph_model = _through_tf2onnx(convert, [*inputs, *specs])
    graph = graph_model.graph
    _check_operators(graph)
    by_name = {str(value.name).removesuffix(":0"): value for value in graph.inputs}
    graph.inputs[:] = [by_name[str(spec.name)] for spec in inputs if spec.name in by_name]
    for value, name in zip(graph.inputs, names, strict=True):
        value.name = name
    given_names = getattr(functional_of(model), "output_names", None) or []
    if len(given_names) != len(graph.outputs):
        given_names = [f"output_{index}" for index in range(len(graph.outputs))]
    for value, name in zip(graph.outputs, given_names, strict=True):
        value.name = name
    for number, ((key, _), array) in enumerate(weights.items()):
        if _WEIGHT + str(number) in by_name:
            _weight_to_initializer(graph, by_name[_WEIGHT + str(number)], key, array)
    for node in list(graph):
        slope = _slope(node)
        if slope >= _SLOPE and node.inputs[0] is not None:
            edit = quantizers[round(slope - _SLOPE)]
            last, axis = (node, None) if _channel_axis(edit) is None else _with_channels(node, edit.key)
            mark = marker(node.inputs[0], edit.key, axis)
            graph.insert_before(node, mark)
            replace_node(last, mark)
    return graph_model


def _refuse_vocabularies(model: Any) -> None:
    for layer in layers_in(model):
        if has_assets(layer):
            raise ValueError(
                f"{layer.name}: found a {unpatched_class(layer).__name__} in the model, whose vocabulary tf2onnx cannot write: "
                "look words up in the data pipeline, and compress and export the model behind that"
            )


def _in_float32(x: Any) -> Any:
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else tf.identity(x)


def _stand_in(x: Any, slope: float, axis: int | None) -> Any:
    x = tf.nn.leaky_relu(x, alpha=slope)
    if axis is None:
        return x
    shape = [1] * len(x.shape)
    shape[axis] = -1
    numbers = np.arange(x.shape[axis], dtype=np.float32) + slope
    return tf.nn.leaky_relu(x * tf.cast(numbers.reshape(shape), x.dtype), alpha=_END)


def _channel_axis(edit: Edit) -> int | None:
    return getattr(edit.transform, "channel_axis", None)


def _slope(node: ir.Node) -> float:
    return node.attributes.get_float("alpha", 0.0) if node.op_type == "LeakyRelu" else 0.0


def _with_channels(first: ir.Node, key: str) -> tuple[ir.Node, int]:
    """Of a quantizer with ranges by channel that begins with the node `first`: the last node, and the axis of the channels."""
    product = only_user(first.outputs[0])
    last = None if product is None else only_user(product.outputs[0])
    found = [constant(value) for value in product.inputs] if product is not None and product.op_type == "Mul" else []
    numbers = next((array for array in found if array is not None), None)
    if last is None or _slope(last) != _END or numbers is None:
        raise ValueError(
            f"{key}: the axis of its channels is lost in tf2onnx, expected ranges for whole tensors (per_channel false)"
        )
    shape = first.outputs[0].shape
    return last, (numbers.ndim if shape is None else len(shape)) - numbers.ndim + int(np.argmax(numbers.shape))


@contextmanager
def _functions_inlined() -> Iterator[None]:
    """Trace through `tf.function`s: Keras runs grouped convolutions in one for XLA, which tf2onnx would leave as a call."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _float_weights(attached: KerasAttached, quantizers: list[Edit]) -> dict[tuple[str, int], np.ndarray]:
    """What goes into each enabled quantizer of weights: masked, not rounded. By edit key and id of the variable, of which one
    quantizer may have several."""
    with attached.replaced(quantizers, lambda edit: lambda x, variable: x):
        masked = {id(variable): value for variable, value in attached.transformed_parameters()}
    return {
        (edit.key, id(variable)): np.asarray(tf.convert_to_tensor(masked[id(variable)]).numpy(), np.float32)
        for edit in quantizers
        if attached.placed[edit.key].enabled
        for site in edit.sites
        if site.is_parameter
        for variable in [attached._variable(site)]
    }


def _known(attached: KerasAttached, quantizers: Sequence[Edit]) -> dict[str, np.ndarray]:
    """What edits of one parameter that are not among `quantizers` make of it: a constant of the file. By edit key."""
    found: dict[str, np.ndarray] = {}
    values: dict[int, Any] = {}
    for edit in attached.plan:
        variables = {id(v): v for site in edit.sites if site.is_parameter for v in [attached._variable(site)]}
        for key, variable in variables.items():
            values[key] = attached.placed[edit.key](values.get(key, keras.ops.convert_to_tensor(variable)), variable)
            if len(variables) == 1 and edit not in quantizers:
                found[edit.key] = np.asarray(keras.ops.convert_to_numpy(values[key]))
    return found


def _structure(model: Any, example: Any) -> Any:
    if example is not None:
        return example
    functional = functional_of(model)
    return functional.input


def _input_specs(model: Any, example: Any, free: Mapping[str, Mapping[int, str]]) -> tuple[list[tf.TensorSpec], list[str]]:
    """Specifications of the model's inputs with a free batch axis and the free axes, and their names."""
    specs, names = [], []
    leaves = named_inputs(model, example)
    own = getattr(functional_of(model), "inputs", ())  # say which sizes are unknown; examples do not
    declared = own if len(own) == len(leaves) else leaves.values()
    for (name, leaf), tensor in zip(leaves.items(), declared, strict=True):
        dtype = keras.backend.standardize_dtype(leaf.dtype)
        dtype = "float32" if dtype in ("float16", "bfloat16") else dtype
        shape = [None if axis in free.get(name, {}) else size for axis, size in enumerate(tensor.shape)]
        specs.append(tf.TensorSpec((None, *shape[1:]), dtype, f"nncf_ext_input_{len(specs)}"))
        names.append(name)
    return specs, names


def _weight_to_initializer(graph: ir.Graph, value: ir.Value, key: str, array: np.ndarray) -> None:
    name = key.partition("|")[0] + "/weight"
    value.name = name if name not in graph.initializers else f"{name}_{len(graph.initializers)}"
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
    graph.register_initializer(value)
    mark = marker(value, key)
    graph.insert_before(graph[0], mark)
    value.replace_all_uses_with(mark.outputs[0])
    mark.replace_input_with(0, value)


def _check_operators(graph: ir.Graph) -> None:
    """Write Erfc (TensorFlow's own rewriting of a GELU) as 1 - Erf, and sign bits (in Keras' argmax) without Bitcast, and Fourier
    transforms; ValueError for what tf2onnx did not translate."""
    write_fourier(graph)
    for node in list(graph):
        if node.op_type == "Bitcast":
            _write_sign_bit(graph, node)
    for node in list(graph):
        if node.op_type == "Erfc" and node.domain == "":
            one = add_constant(graph, f"{node.name}_one", np.ones((), np.float32))
            erf = ir.node("Erf", node.inputs)
            complement = ir.node("Sub", [one, erf.outputs[0]])
            graph.insert_before(node, [erf, complement])
            replace_node(node, complement)
        elif node.domain == "" and not onnx.defs.has(node.op_type, OPSET, ""):
            raise ValueError(
                f"{node.name}: found TensorFlow's operator {node.op_type}, expected one that tf2onnx translates to ONNX"
            )


def _write_sign_bit(graph: ir.Graph, bits: ir.Node) -> None:
    """The bits of x & the sign's: that one where x < 0 or 1/x < 0, which is true of -0."""
    masked = only_user(bits.outputs[0])
    if masked is None or masked.op_type != "BitwiseAnd":
        return
    mask = next((array for value in masked.inputs if (array := constant(value)) is not None), None)
    if mask is None or mask != np.iinfo(np.int32).min:
        return
    zero, one = (add_constant(graph, f"{bits.name}_{n}", np.full((), n, np.float32)) for n in (0, 1))
    sign, none = (add_constant(graph, f"{bits.name}_bits_{n}", np.full((), n, np.int32)) for n in (mask, 0))
    below = ir.node("Less", [bits.inputs[0], zero])
    inverse = ir.node("Div", [one, bits.inputs[0]])
    inverse_below = ir.node("Less", [inverse.outputs[0], zero])
    either = ir.node("Or", [below.outputs[0], inverse_below.outputs[0]])
    chosen = ir.node("Where", [either.outputs[0], sign, none])
    graph.insert_before(masked, [below, inverse, inverse_below, either, chosen])
    replace_node(masked, chosen)
    graph.remove(bits, safe=True)


class _WithoutCaptures:
    """A traced function of which tf2onnx is told the arguments alone: it takes the eager tensors that a layer keeps (tables of
    positions, an adapted Normalization), which freezing makes constants, for inputs too.
    """

    def __init__(self, concrete: Any, arguments: int):
        self._concrete, self._arguments = concrete, arguments

    def get_concrete_function(self, *signature: Any) -> Any:
        return self

    @property
    def inputs(self) -> list[Any]:
        return self._concrete.inputs[: self._arguments]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._concrete, name)


def _through_tf2onnx(function: Callable[..., Any], signature: list[tf.TensorSpec]) -> ir.Model:
    import tf2onnx

    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it did not translate is told by `_check_operators`
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            concrete = _WithoutCaptures(tf.function(function).get_concrete_function(*signature), len(signature))
            proto, _ = tf2onnx.convert.from_function(concrete, input_signature=signature, opset=OPSET)
    finally:
        logger.setLevel(level)
    return ir.from_proto(proto)
