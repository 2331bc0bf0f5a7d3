"""The only module that touches Keras' (and TensorFlow's) private names. Written for Keras 3.15 and TensorFlow 2.21."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # noqa: F401  (part of this module's interface)
from keras.src.models.functional import Functional
from keras.src.saving import object_registration
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


def sublayers(layer: Any) -> list[Any]:
    """Layers that `layer` holds directly."""
    if isinstance(layer, (Functional, keras.Sequential)):
        return list(layer.layers)
    return list(layer._layers)


def has_automatic_name(layer: Any) -> bool:
    """Whether Keras made the layer's name up (class name and a running number): it differs from one build to the next."""
    prefix = keras.src.utils.naming.to_snake_case(unpatched_class(layer).__name__)
    return re.fullmatch(re.escape(prefix) + r"(_\d+)?", layer.name) is not None


def build_shape(layer: Any) -> Any:
    """Input shape(s) with which the layer was built, or None."""
    config = layer.get_build_config() or {}
    return config.get("input_shape", config.get("shapes_dict"))


def has_training_argument(layer: Any) -> bool:
    return layer._call_has_training_arg


def training_now() -> bool:
    """The `training` flag of the forward that is running."""
    context = global_state.get_global_attribute("current_call_ctx")
    return bool(context is not None and context.get_value("training"))


def drop_symbolic_losses(layer: Any) -> bool:
    """Remove what a symbolic call left through `add_loss`; True where there was something."""
    found = False
    for each in [layer, *layer._flatten_layers(include_self=False)]:
        kept = [loss for loss in each._losses if not isinstance(loss, keras.KerasTensor)]
        if len(kept) != len(each._losses):
            each._losses[:] = kept
            found = True
    return found


class TFOp(keras.Operation):
    """A raw `tf.*` function that was called on symbolic Keras tensors."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def function_name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


class _RecordTFOps(dispatch.GlobalOpDispatcher):
    """Makes a TFOp of every `tf.*` call that got a symbolic Keras tensor, while `recording_tf_ops` is entered."""

    active = threading.local()

    def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
        if not getattr(self.active, "on", False):
            return self.NOT_SUPPORTED
        if not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten((list(args), kwargs))):
            return self.NOT_SUPPORTED
        return TFOp(op)(*args, **kwargs)


_RecordTFOps().register()


@contextmanager
def recording_tf_ops() -> Iterator[None]:
    before = getattr(_RecordTFOps.active, "on", False)
    _RecordTFOps.active.on = True
    try:
        yield
    finally:
        _RecordTFOps.active.on = before


def serialize_as(cls: type, registered: type) -> None:
    """Have instances of `cls` saved under the registered name of another class."""
    object_registration.GLOBAL_CUSTOM_NAMES[cls] = object_registration.GLOBAL_CUSTOM_NAMES[registered]
