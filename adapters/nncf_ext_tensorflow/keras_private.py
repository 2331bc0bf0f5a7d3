"""The only module that touches Keras' (and TensorFlow's) private names. Written for Keras 3.15 and TensorFlow 2.21."""

from __future__ import annotations

import inspect
import re
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import sqrt
from typing import Any, cast

import keras
import tensorflow as tf
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # noqa: F401  (part of this module's interface)
from keras.src.models.functional import Functional
from keras.src.ops.numpy import BroadcastTo, GetItem, Reshape, Split
from keras.src.saving import object_registration
from keras.src.utils import python_utils
from keras.src.utils.naming import to_snake_case
from tensorflow.python.eager import record
from tensorflow.python.util import dispatch


def is_functional(layer: Any) -> bool:
    """Whether the graph that Keras keeps is what runs: a Functional model whose `call` nobody overrode."""
    return isinstance(layer, Functional) and unpatched_class(layer).call is Functional.call


def functional_of(layer: Any) -> Any:
    """The Functional model that runs when `layer` is called (its own, or a built Sequential's); None where there is none."""
    if is_functional(layer):
        return layer
    if isinstance(layer, keras.Sequential) and unpatched_class(layer).call is keras.Sequential.call:
        return layer._functional
    return None


def unpatched_class(layer: Any) -> type:
    """The class that the user gave `layer`."""
    return getattr(type(layer), "unpatched", type(layer))


def is_part_of_keras(layer: Any) -> bool:
    """Whether the layer's class comes with Keras."""
    return _users_class(layer).__module__.startswith("keras.src.")


def _users_class(layer: Any) -> type:
    """`unpatched_class`, also of a model that has lost channels (`shrunk_model`)."""
    cls = unpatched_class(layer)
    return getattr(cls, "users_class", cls)


def nodes_of(function: Any) -> Iterator[Any]:
    """Calls recorded in a Function or Functional model, in the order in which Keras runs them."""
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


def producer_of(tensor: keras.KerasTensor) -> Any:
    """The recorded call that made a symbolic tensor; None for one that nothing made."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    return history.operation._inbound_nodes[history.node_index]


def in_order_of_creation(nodes: list[Any]) -> list[Any]:
    """Recorded calls in the order in which Python made them (as far as the running number in tensor names tells it)."""
    numbers = [re.fullmatch(r"keras_tensor(?:_(\d+))?", node.outputs[0].name) for node in nodes]
    if not all(numbers):
        return nodes
    order = sorted(range(len(nodes)), key=lambda i: int(numbers[i].group(1) or 0))  # pyright: ignore[reportOptionalMemberAccess]
    return [nodes[i] for i in order]


def layers_in(layer: Any) -> list[Any]:
    """`layer`, and all the layers inside of it, each once."""
    return layer._flatten_layers()


def sublayers(layer: Any) -> list[Any]:
    """Layers that `layer` holds directly."""
    if isinstance(layer, (Functional, keras.Sequential)):
        return list(layer.layers)
    return list(layer._layers)


def attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that the author of `layer` set."""
    for name, value in vars(layer).items():
        if not name.startswith(("_self_", "_layers", "_tracker", "_functional")):
            yield name, value


def kernel_attribute(layer: Any, name: str = "kernel") -> str:
    """The attribute that holds the variable of a layer's property `name`."""
    return f"_{name}" if f"_{name}" in vars(layer) else name


def own_variables(layer: Any) -> list[keras.Variable]:
    """Variables that `layer` holds itself: weights, statistics and the states of its random generators."""
    return [*layer._trainable_variables, *layer._non_trainable_variables, *seeds(layer)]


def seeds(layer: Any) -> list[keras.Variable]:
    """The states of the random generators that `layer` holds itself."""
    return [generator.state for generator in layer._seed_generators]


def states(layer: Any) -> list[keras.Variable]:
    """The variables that `layer` itself may change when it runs."""
    return [*layer._non_trainable_variables, *seeds(layer)]


def keeps_constants(layer: Any) -> bool:
    """Whether loading variables does more in `layer` than to assign them: an adapted Normalization makes constants of them."""
    own = unpatched_class(layer).load_own_variables is not keras.Layer.load_own_variables
    return own and (not is_part_of_keras(layer) or hasattr(layer, "finalize_state"))


def has_assets(layer: Any) -> bool:
    """Whether `layer` has state that Keras saves in files of its own: vocabularies."""
    return layer.built and hasattr(layer, "save_assets") and hasattr(layer, "load_assets")


def word_weights(layer: Any, words: int) -> list[float]:
    """How much each of its words counts in a lookup layer with `tf_idf`."""
    if not words:
        return []
    lookup = getattr(layer, "_lookup_layer", layer)
    start = lookup._token_start_index()
    return [float(weight) for weight in lookup.idf_weights_const.numpy()[start : start + words]]


def learned_variables(model: Any) -> list[keras.Variable]:
    """What a model and the layers in it learn, or would if they were not frozen, each once."""
    return list({id(v): v for layer in layers_in(model) for v in layer._trainable_variables}.values())


def automatic_name(layer: Any) -> str:
    """What Keras calls a layer that got no name; but for the first one it adds a running number, which differs between builds."""
    return to_snake_case(unpatched_class(layer).__name__)


def has_automatic_name(layer: Any) -> bool:
    return re.fullmatch(re.escape(automatic_name(layer)) + r"(_\d+)?", layer.name) is not None


def build_shape(layer: Any) -> Any:
    """Input shape(s) with which the layer was built, or None."""
    config = layer.get_build_config() or {}
    return config.get("input_shape", config.get("shapes_dict"))


def built_shapes(layer: Any) -> dict[str, Any]:
    """Input shapes with which the layer was built, by the arguments of `build`; empty for one that is not built."""
    return vars(layer).get("_build_shapes_dict") or {}


def set_built_shapes(layer: Any, shapes: dict[str, Any], changes: Any) -> None:
    changes.set(layer, "_build_shapes_dict", shapes)


def keeps_input_spec(layer: Any) -> bool:
    """Whether `layer.input_spec` is an attribute, and not computed."""
    return "_input_spec" in vars(layer)


def set_input_spec(layer: Any, spec: keras.InputSpec, changes: Any) -> None:
    changes.set(layer, "_input_spec", spec)


def has_training_argument(layer: Any) -> bool:
    return layer._call_has_training_arg


def training_now() -> bool:
    """The `training` flag of the forward that is running."""
    context = global_state.get_global_attribute("current_call_ctx")
    return bool(context is not None and context.get_value("training"))


def trained_now() -> bool:
    """Whether the forward that is running is one to train with: also where a model around it has a `call` without `training`, so
    that `fit` cannot pass it on, and a gradient tape is recording."""
    context = global_state.get_global_attribute("current_call_ctx")
    training = None if context is None else context.get_value("training")
    return record.could_possibly_record() if training is None else bool(training)


def is_recording_gradients() -> bool:
    """Whether a `tf.GradientTape` is open in this thread."""
    return record.could_possibly_record()


def without_autocast() -> Any:
    """A context in which variables are read in their own precision."""
    return AutocastScope(None)


@contextmanager
def computing_in_float32(model: Any) -> Iterator[None]:
    """`model` computes in float32, where its dtype policies say float16 or bfloat16."""
    layers = [layer for layer in layers_in(model) if layer.compute_dtype in ("float16", "bfloat16")]
    policies = [layer._dtype_policy for layer in layers]

    def change(layer: Any, policy: Any) -> None:
        layer._dtype_policy = policy
        if hasattr(layer, "finalize_state"):  # its constants are in the precision that it computes in
            layer.finalize_state()

    try:
        for layer in layers:
            change(layer, keras.DTypePolicy("float32"))
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            change(layer, policy)


def hold(model: Any, name: str, layer: Any) -> None:
    """Make `layer` an attribute of a model that may be built already, tracked as if it had been there from the start."""
    with _unlocked(model):
        setattr(model, name, layer)
    if all(each is not layer for each in model._layers):
        list.append(model._layers, layer)  # Sequential does not track its attributes


def release(model: Any, name: str) -> None:
    """The reverse of `hold`."""
    layer = getattr(model, name)
    with _unlocked(model):
        delattr(model, name)
    if any(each is layer for each in model._layers):
        list.remove(model._layers, layer)
    model._tracker.stored_ids["layers"].discard(id(layer))


@contextmanager
def _unlocked(model: Any) -> Iterator[None]:
    tracker = model._tracker
    locked = tracker.locked
    tracker.locked = False
    try:
        yield
    finally:
        tracker.locked = locked


def forget_compiled_functions(model: Any) -> None:
    """Have TensorFlow trace `train_step` and its siblings anew; possible in the middle of `fit`."""
    for name in ("train", "test", "predict"):
        if getattr(model, f"{name}_function", None) is not None:
            getattr(model, f"make_{name}_function")(force=True)


def renew_optimizer(model: Any) -> None:
    """Give a compiled model whose variables changed an optimizer that knows them (its moments start anew)."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer.built:
        with _unlocked(model):
            model.optimizer = type(optimizer).from_config(optimizer.get_config())
        model.optimizer.build(model.trainable_variables)


def has_learning_rate_schedule(optimizer: Any) -> bool:
    return isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule)


def trained_variables(optimizer: Any) -> list[keras.Variable]:
    """The variables that a built optimizer trains."""
    return optimizer._trainable_variables


def steps_of(optimizer: Any) -> tuple[int, bool]:
    """Steps that an optimizer has made, and whether it has gradients of some batches for the next one."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    steps, batches = divmod(int(inner._iterations.numpy()), inner.gradient_accumulation_steps or 1)
    return steps, batches > 0


def after_whole_steps(optimizer: Any, change: Callable[[], Any]) -> None:
    """Call `change` after `Optimizer.apply` where that made a step, and did not only add to the gradients of the next one; in a
    compiled function, have it so each time."""
    batches = optimizer.gradient_accumulation_steps
    if not batches:
        change()
        return

    def whole() -> None:
        change()

    keras.ops.cond(keras.ops.equal(optimizer._iterations % batches, 0), whole, lambda: None)


def assign_on_replicas(variable: keras.Variable, value: Any) -> None:
    """Assign `value`, the same on all replicas, as an optimizer does in its step."""
    if not tf.distribute.has_strategy():
        variable.assign(value)
        return

    def update(strategy: Any, variable: Any, value: Any) -> None:
        strategy.extended.update(variable, lambda own, new: own.assign(new), args=(value,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(update, tf.distribute.get_strategy(), variable.value, value)


def callbacks_beside(callback: Any) -> list[Any]:
    """The other callbacks of the `fit` that is calling `callback`: Keras tells a callback of no others."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and any(each is callback for each in caller.callbacks):
            return [each for each in caller.callbacks if each is not callback]
        frame = frame.f_back
    return []


def optimizer_states(optimizer: Any, variable: Any) -> list[Any]:
    """The variables of an optimizer that hold a number for each element of `variable`: moments, accumulators."""
    if not getattr(optimizer, "built", False) or not any(v is variable for v in optimizer._trainable_variables):
        return []
    index = optimizer._get_variable_index(variable)
    count = len(optimizer._trainable_variables)
    found = []
    for name, kept in vars(optimizer).items():
        if name in ("_trainable_variables", "_model_variables_moving_average"):
            continue
        own = kept.get(index) if isinstance(kept, dict) else kept[index] if _is_list(kept) and len(kept) == count else None
        if isinstance(own, keras.Variable) and own.shape == variable.shape and own is not variable:
            found.append(own)
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


class LayerWithLosses(keras.layers.Layer):
    """A layer whose share in the `losses` of models is made when they are read; it never runs, so `add_loss` is not for it."""

    def own_losses(self) -> list[Any]:
        raise NotImplementedError

    def _get_own_losses(self) -> list[Any]:
        return [] if in_symbolic_scope() else self.own_losses()


def scaled_as_additional_loss(model: Any, loss: Any) -> Any:
    """As Keras scales what `add_loss` gave it: divided by the number of replicas, over which the gradients are summed."""
    return model._aggregate_additional_loss(loss)


def drop_symbolic_losses(layer: Any) -> bool:
    """Remove what a symbolic call left through `add_loss`; True where there was something."""
    found = False
    for each in layers_in(layer):
        kept = [loss for loss in each._losses if not isinstance(loss, keras.KerasTensor)]
        if len(kept) != len(each._losses):
            each._losses[:] = kept
            found = True
    return found


def query_projection(layer: Any) -> Any:
    """The layer of a MultiHeadAttention or GroupQueryAttention that makes the queries."""
    return layer._query_dense


def head_size(layer: Any) -> int:
    """Size of a head's queries and keys in an attention layer."""
    return layer._query_dense.kernel.shape[2]


def attention_sizes(layer: Any) -> dict[str, Any]:
    """New values of the attributes of an attention layer, whose projections (layers of it) have changed."""
    query, key, value, output = (getattr(layer, f"_{each}_dense").kernel.shape for each in ("query", "key", "value", "output"))
    width, heads, size = query
    outputs = tuple(output[2:])
    if isinstance(layer, keras.layers.GroupQueryAttention):
        groups = key[1]
        if heads % groups:
            raise ValueError(f"{heads} query heads are left for {groups} key and value heads, expected a multiple")
        names = {"num_query_heads": heads, "num_key_value_heads": groups, "num_repeats": heads // groups}
        return {**names, "head_dim": size, "feature_dim": outputs[0], "_inverse_sqrt_head_dim": 1 / sqrt(size)}
    sizes = {"_num_heads": heads, "_key_dim": size, "_value_dim": value[2], "_inverse_sqrt_key_dim": 1 / sqrt(size)}
    if layer._output_shape is not None or outputs != (width,):
        sizes["_output_shape"] = outputs
    return sizes


def computes_attention_in_steps(layer: Any) -> bool:
    """Whether a MultiHeadAttention computes what `AttentionInSteps` computes."""
    cls, base = unpatched_class(layer), keras.layers.MultiHeadAttention
    return cls.call is base.call and cls._compute_attention is base._compute_attention and not layer._flash_attention


def attention_gate(layer: Any) -> Any:
    """The layer of a MultiHeadAttention whose result the context is multiplied by; None where it has no gate."""
    return layer._gate_dense if layer._use_gate else None


def attention_equations(layer: Any) -> tuple[str, str]:
    """Einsum equations of a MultiHeadAttention: of the scores (keys, queries) and the context (weights, values)."""
    return layer._dot_product_equation, layer._combine_equation


def attention_rank(layer: Any) -> int:
    """Over how many axes a MultiHeadAttention attends: the last ones of its scores."""
    return len(layer._attention_axes)


class AttentionInSteps:
    """Mixin for MultiHeadAttention: its two products and the softmax as operations of their own, with `inside` between them."""

    def inside(self) -> Callable[[str, Any], Any] | None:
        """What takes the place of a tensor, given its name and the tensor; None where Keras is to compute it as it does."""
        raise NotImplementedError

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: Any = None,
        return_attention_scores: bool = False,
    ) -> tuple[Any, Any]:
        layer: Any = self
        at = self.inside()
        if at is None:
            return super()._compute_attention(query, key, value, attention_mask, training, return_attention_scores)  # type: ignore[misc]
        scaled = at("scale|input:0", query) * keras.ops.cast(layer._inverse_sqrt_key_dim, query.dtype)
        scaled = at("scores|input:0", at("scale|output", scaled))
        scores = keras.ops.einsum(layer._dot_product_equation, at("scores|input:1", key), scaled)
        scores = at("softmax|input:0", at("scores|output", scores))
        weights = at("softmax|output", layer._masked_softmax(scores, attention_mask))
        kept = layer._dropout_layer(weights, training=training) if layer.dropout > 0 else weights
        context = keras.ops.einsum(layer._combine_equation, at("context|input:0", kept), at("context|input:1", value))
        return at("context|output", context), weights


class ReplacedInputs:
    """Mixin for a Functional model: what its input layers get goes through `replaced`."""

    def replaced(self, inputs: list[Any]) -> list[Any]:
        raise NotImplementedError

    def _standardize_inputs(self, inputs: Any) -> list[Any]:
        return self.replaced(super()._standardize_inputs(inputs))  # type: ignore[misc]


class TFOp(keras.Operation):
    """A raw `tf.*` function that was called on symbolic Keras tensors."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """As for any operation, but on dense tensors: Keras marks the product of a tensor and a number as sparse."""

        def dense(x: Any) -> Any:
            return keras.KerasTensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x

        arguments: Any = keras.tree.map_structure(dense, (args, kwargs))
        return super().compute_output_spec(*arguments[0], **arguments[1])

    @property
    def function_name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


class _RecordTFOps(dispatch.GlobalOpDispatcher):
    """Makes a TFOp of every `tf.*` call that got a symbolic Keras tensor, while `recording` is entered."""

    active = threading.local()

    def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
        if not getattr(self.active, "on", False):
            return self.NOT_SUPPORTED
        if not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten((list(args), kwargs))):
            return self.NOT_SUPPORTED
        return TFOp(op)(*args, **kwargs)


_RecordTFOps().register()


@contextmanager
def recording(layer: Any) -> Iterator[None]:
    """For a symbolic call of `layer`: raw `tf.*` calls are recorded too, and the model forgets the call afterwards."""
    layers = layers_in(layer)
    lengths = [(calls, len(calls)) for each in layers for calls in (each._inbound_nodes, each._outbound_nodes)]
    before = getattr(_RecordTFOps.active, "on", False)
    _RecordTFOps.active.on = True
    try:
        yield
    finally:
        _RecordTFOps.active.on = before
        for calls, length in lengths:
            del calls[length:]


def config_without_compilation(model: Any) -> dict[str, Any]:
    """A model as JSON data, as plain as Keras makes it of an uncompiled one."""
    config: Any = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    return config


def built_again(layer: Any) -> Any:
    """Another layer or model of the same config, not compiled, with weights of its own."""
    classes = {name: _taking_what_it_can(cls) for name, cls in users_classes(layer).items()}
    with _named_lambdas(layer) as functions, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`build\(\)` was called on layer", UserWarning)  # what stays unbuilt runs once then
        return keras.saving.deserialize_keras_object(
            config_without_compilation(layer), custom_objects={**classes, **functions}, safe_mode=False
        )


def _taking_what_it_can(cls: type) -> Any:
    """`cls`, for a config that Keras made by itself: without the keys for which `__init__` has no argument."""
    parameters = inspect.signature(cls.__init__).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if takes_all or not python_utils.is_default(cls.get_config):  # pyright: ignore[reportAttributeAccessIssue]
        return cls

    class Constructor:
        @staticmethod
        def from_config(config: dict[str, Any]) -> Any:
            return cls(**{key: value for key, value in config.items() if key in parameters})

    return Constructor


@contextmanager
def _named_lambdas(layer: Any) -> Iterator[dict[str, Callable[..., Any]]]:
    """The functions of Lambda layers by names that they have meanwhile, so that a config can refer to them.

    Keras would write their code down, which comes back without the names of its module.
    """
    before: dict[Any, str] = {}
    functions: dict[str, Callable[..., Any]] = {}
    for each in layers_in(layer):
        if isinstance(each, keras.layers.Lambda):
            for function in (each.function, each._output_shape, each.mask):
                if isinstance(function, types.FunctionType) and function not in before:
                    before[function] = function.__name__
                    function.__name__ = f"nncf_ext_function_{len(before)}"
                    functions[function.__name__] = function
    try:
        yield functions
    finally:
        for function, name in before.items():
            function.__name__ = name


def users_classes(model: Any) -> dict[str, type]:
    """The user's classes in a model by name, so that those that were not registered are found.

    Keras finds its own by module and name; by name alone, the layer `Add` would stand in for the operation `Add`.
    """
    classes = [_users_class(layer) for layer in users_layers(model)]
    return {cls.__name__: cls for cls in classes}


def users_layers(model: Any) -> list[Any]:
    """The layers (and `model` itself) whose classes are the user's."""
    return [layer for layer in layers_in(model) if not is_part_of_keras(layer)]


def serialize_as(cls: type, registered: type) -> None:
    """Have instances of `cls` saved under the registered name of another class.

    Keras cannot find that where this package is not imported, and then says what the class of the file is called and in which
    module it is: it is called so that this names the import, not the user's class, which would be found and cannot be loaded.
    """
    if cls in object_registration.GLOBAL_CUSTOM_NAMES:
        return
    cls.__name__ = registered.__name__.removesuffix("Model") + cls.__name__
    cls.__module__ = registered.__module__.partition(".")[0]
    object_registration.GLOBAL_CUSTOM_NAMES[cls] = object_registration.GLOBAL_CUSTOM_NAMES[registered]


def graph_of(layer: Any) -> Any:
    """The graph that a Functional model, or a built Sequential one, keeps; None for any other layer."""
    return layer if isinstance(layer, Functional) else getattr(layer, "_functional", None)


def size_attribute(operation: Any) -> str | None:
    """The attribute of a layer or operation that says the shape of its result, or where it splits; None where there is none."""
    kinds = {keras.layers.Reshape: "target_shape", Reshape: "newshape", BroadcastTo: "shape", Split: "indices_or_sections"}
    return next((name for kind, name in kinds.items() if isinstance(operation, kind)), None)


def is_index(operation: Any) -> bool:
    """Whether the operation is `x[...]`."""
    return isinstance(operation, GetItem)


def arguments_of(operation: Any) -> Any:
    """The arguments of the first recorded call of an operation."""
    return operation._inbound_nodes[0].arguments


def give_arguments(operation: Any, args: tuple[Any, ...], changes: Any) -> None:
    """Have the first recorded call of an operation be one with other positional arguments."""
    arguments = arguments_of(operation)
    changes.set_all(arguments, {"args": args, "_flat_arguments": keras.tree.flatten((args, arguments.kwargs))})


def automatic_config(layer: Any, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The attribute that makes the config of a layer without `get_config`, with other values of some keys."""
    kept = getattr(layer, "_auto_config", None)
    if kept is None or not keys:
        return {}
    return {"_auto_config": type(kept)(**{**kept.config, **keys})}


def give_new_value(variable: keras.Variable, value: Any, changes: Any) -> None:
    """`assign` of a value of another shape."""
    changes.set(variable, "_value", None)
    changes.set(variable, "_shape", tuple(value.shape))
    cast(Any, variable)._initialize(value)


def set_shape(tensor: keras.KerasTensor, shape: tuple[int | None, ...], changes: Any) -> None:
    """Change the shape of a symbolic tensor, and of the InputLayer that it may come from."""
    if tuple(tensor.shape) == tuple(shape):
        return
    changes.set(tensor, "_shape", tuple(shape))
    history = getattr(tensor, "_keras_history", None)
    if history is not None and isinstance(history.operation, keras.layers.InputLayer):
        changes.set(history.operation, "_batch_shape", tuple(shape))


@contextmanager
def whole_tracebacks() -> Iterator[None]:
    """Errors keep the frames of Keras, and their messages are those of where they were raised."""
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()


def innermost_operation(error: BaseException) -> Any:
    """The layer or operation that was running when `error` was raised, within `whole_tracebacks`; None where there was none."""
    found, traceback = None, error.__traceback__
    while traceback is not None:
        running = traceback.tb_frame.f_locals.get("self")
        found = running if isinstance(running, keras.Operation) else found
        traceback = traceback.tb_next
    return found
