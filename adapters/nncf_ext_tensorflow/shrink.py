"""Taking channels out of a plain Keras model.

Everything happens in place: a variable gets a smaller value, and what states its size (attributes of its layer, so the config;
the shapes that Keras remembers) follows. That serves Functional, Sequential and subclassed models alike, keeps names, trainable
flags, dtype policies and shared layers, and can be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as L

from nncf_ext.channels.shrinking import Changes, keep_along
from nncf_ext.closeness import are_close, largest_difference
from nncf_ext.edits import Removal
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Site
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.apply import Patch
from nncf_ext_tensorflow.comparison import outputs_of, tolerance_of
from nncf_ext_tensorflow.example_inputs import made_up_inputs
from nncf_ext_tensorflow.layer_sizes import (
    queries_factor,
    sizes_in_users_layer,
    sizes_of,
    state_sizes,
)
from nncf_ext_tensorflow.naming import names_in
from nncf_ext_tensorflow.operation_sizes import fit_operations
from nncf_ext_tensorflow.shapes import Shapes
from nncf_ext_tensorflow.trace import KerasTrace, trace


def shrink_unchecked(model: Any, removals: Sequence[Removal], users_sizes: str, example: Any) -> None:
    """The same for a model that has no weights yet, and of which is known which `users_sizes` change (`sizes_in_users_layer`)."""
    traced = trace(model, example)
    _shrink(model, removals, traced, users_sizes, made_up_inputs(model) if example is None else example, Changes())


def try_to_shrink(
    model: Any, removals: Sequence[Removal], traced: KerasTrace, users_sizes: str, example: Any, expected: Sequence[np.ndarray]
) -> None:
    """ConfigError, and `model` as it was, where it does not run or computes something else."""
    changes = Changes()
    try:
        with changes.undone_on_error():
            with keras_private.whole_tracebacks():
                _shrink(model, removals, traced, users_sizes, example, changes)
                found = outputs_of(model, example)
            tolerance = tolerance_of(model)
            if not are_close(expected, found, tolerance):
                raise _refusal(_first_difference(model, traced, example, changes, tolerance), "it computes something else then")
    except ConfigError:
        raise
    except Exception as error:
        operation = error.operation if isinstance(error, _CannotShrink) else keras_private.innermost_operation(error)
        name = names_in(model).layers.get(id(operation)) or getattr(operation, "name", model.name)
        raise _refusal(name, _last_line(error)) from error


def _refusal(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{name}: channels that reach it cannot be removed ({reason}): "
        'put it, or the layers whose output it takes, into "ignored_scopes"'
    )


def _last_line(error: Exception) -> str:
    """The part of an error's message that says what was wrong: Keras and TensorFlow put others around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"{{.*?}}|\[Op:.*|\.$", "", lines[-1] if lines else type(error).__name__).strip()


class _CannotShrink(ValueError):
    """A layer that cannot have other sizes."""

    def __init__(self, layer: Any, reason: str):
        super().__init__(reason)
        self.operation = layer


@dataclass(frozen=True)
class _Kept:
    """What stays of one variable: the indices along some of its axes. holders: the layers that have it, and their attribute."""

    variable: keras.Variable
    axes: dict[int, tuple[int, ...]]
    holders: list[tuple[Any, str]]

    @property
    def indices(self) -> dict[int, np.ndarray]:
        return {axis: np.asarray(keep, np.int64) for axis, keep in self.axes.items()}

    def value(self) -> Any:
        value: Any = keras.ops.convert_to_tensor(self.variable)
        for axis, indices in self.indices.items():
            value = keras.ops.take(value, indices, axis)
        return value


def kept_of(removals: Sequence[Removal], traced: KerasTrace) -> list[_Kept]:
    """By variable. ValueError for a removal that is of no variable of the model, or contradicts another one."""
    holders: dict[int, list[tuple[Any, str]]] = {}
    for layer, attribute, variable in traced.variables.values():
        holders.setdefault(id(variable), []).append((layer, attribute))
    found: dict[int, _Kept] = {}
    for removal in removals:
        if removal.site not in traced.variables:
            raise ValueError(f"{removal.site}: the model has no such parameter")
        layer, _, variable = traced.variables[removal.site]
        of_one_channel = [variable]
        if isinstance(layer, L.BatchNormalization):
            of_one_channel = [v for v in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance) if v is not None]
        for each in of_one_channel:
            whole = _Kept(each, {}, holders[id(each)])
            keep_along(found.setdefault(id(each), whole).axes, removal, each.shape)
    return [each for each in found.values() if each.axes]


def _shrink(
    model: Any, removals: Sequence[Removal], traced: KerasTrace, users_sizes: str, example: Any, changes: Changes
) -> None:
    kept = kept_of(removals, traced)
    layers = {id(layer): layer for each in kept for layer, _ in each.holders}
    attentions = [
        (layer, keras_private.head_size(layer))
        for layer in keras_private.layers_in(model)
        if isinstance(layer, L.MultiHeadAttention | L.GroupQueryAttention)
        and any(id(projection) in layers for projection in keras_private.sublayers(layer))
    ]
    old_shapes = {id(each.variable): tuple(each.variable.shape) for each in kept}
    for each in kept:
        keras_private.give_new_value(each.variable, each.value(), changes)
    for layer in layers.values():
        axes = {attribute: each.indices for each in kept for holder, attribute in each.holders if holder is layer}
        with _blaming(layer):
            changes.set_all(layer, sizes_of(layer, axes))
    for layer, size in attentions:
        with _blaming(layer):
            changes.set_all(layer, keras_private.attention_sizes(layer))
        factor = queries_factor(layer, size)
        for variable in keras_private.query_projection(layer).trainable_variables if factor != 1 else ():
            keras_private.give_new_value(variable, variable * factor, changes)
    for layer in keras_private.layers_in(model):
        if isinstance(layer, L.RNN):
            changes.set_all(layer, state_sizes(layer))
    for layer in keras_private.users_layers(model):
        changes.set_all(layer, sizes_in_users_layer(layer, old_shapes, users_sizes))
    fit_operations(traced, removals, changes)
    Shapes(model, list(layers.values()), changes).update(example)


@contextmanager
def _blaming(layer: Any) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise _CannotShrink(layer, str(error)) from None


def _first_difference(model: Any, traced: KerasTrace, example: Any, changes: Changes, tolerance: float) -> str:
    """The first operator that computes something else; `changes` are undone afterwards."""
    small = _intermediates(model, traced, example)
    changes.undo()
    large = _intermediates(model, traced, example)
    for node in traced.graph.nodes:
        a, b = large.get(node.name), small.get(node.name)
        if a is not None and b is not None and a.shape == b.shape and largest_difference(a, b) > tolerance:
            return node.name
    return model.name


def _intermediates(model: Any, traced: KerasTrace, example: Any) -> dict[str, np.ndarray]:
    """Outputs of the operators by node."""
    seen: dict[str, np.ndarray] = {}
    patch = Patch(model, traced)

    def keep(name: str) -> Callable[[Any], Any]:
        def pass_on(x: Any) -> Any:
            seen[name] = np.asarray(keras.ops.convert_to_numpy(x))
            return x

        return pass_on

    try:
        for node in traced.graph.nodes:
            site = Site(node.name, "output")
            if site in traced.places:
                patch.at_place(site, keep(node.name))
        model(example, training=False)
    finally:
        patch.remove()
    return seen
