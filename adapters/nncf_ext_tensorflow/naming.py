"""Names of layers and variables: stable between two builds of a model wherever Keras' own names are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from nncf_ext_tensorflow import keras_private


@dataclass
class Names:
    """By `id`: the path of every layer, the full name of every variable, and the layer and attribute that hold the variable.

    saved: ids of the models whose config has the names of what they consist of.
    """

    layers: dict[int, str] = field(default_factory=dict)
    variables: dict[int, str] = field(default_factory=dict)
    owners: dict[int, tuple[Any, str]] = field(default_factory=dict)
    batch_norms: list[Any] = field(default_factory=list)
    saved: set[int] = field(default_factory=set)


def names_in(model: Any) -> Names:
    """Names of what `model` holds. A layer that is shared has the name of its first place."""
    names = Names()
    names.layers[id(model)] = ""
    _visit(model, "", names, True)
    return names


def _visit(layer: Any, path: str, names: Names, is_saved: bool) -> None:
    """is_saved: whether the configs of all that `layer` is in have the config of `layer`."""
    if is_saved and (isinstance(layer, keras.Sequential) or keras_private.is_functional(layer)):
        names.saved.add(id(layer))
    for attribute, value in vars(layer).items():
        if isinstance(value, keras.Variable) and id(value) not in names.owners:
            names.owners[id(value)] = (layer, attribute)
    for variable in keras_private.own_variables(layer):
        names.variables.setdefault(id(variable), _unique(join(path, variable.name), names.variables.values()))
    if isinstance(layer, keras.layers.BatchNormalization):
        names.batch_norms.append(layer)
    new = [child for child in keras_private.sublayers(layer) if id(child) not in names.layers]
    for child in new:
        names.layers[id(child)] = _unique(join(path, _name_in(layer, child, names)), names.layers.values())
    for child in new:
        _visit(child, names.layers[id(child)], names, id(layer) in names.saved)


def join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _unique(name: str, taken: Any) -> str:
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


def _name_in(parent: Any, child: Any, names: Names) -> str:
    """Name of a layer within its parent; where Keras made it up and does not save it, a name for where the parent holds it."""
    if id(parent) in names.saved or not keras_private.has_automatic_name(child):
        return child.name
    for attribute, value in keras_private.attributes(parent):
        for at, item in _items(attribute, value):
            if item is child:
                return at.lstrip("_")
    kind = keras_private.unpatched_class(child)
    alike = [each for each in keras_private.sublayers(parent) if keras_private.unpatched_class(each) is kind]
    number = next(index for index, each in enumerate(alike) if each is child)
    return keras_private.automatic_name(child) + (f"_{number}" if number else "")


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _items(f"{name}/{index}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _items(f"{name}/{key}", item)
    else:
        yield name, value


def named_inputs(model: Any, inputs: Any) -> dict[str, Any]:
    """The arrays in `inputs` (None: the model's symbolic ones) by the name of the input layer or the entries that lead there."""
    functional = keras_private.functional_of(model)
    own = [tensor.name for tensor in getattr(functional, "inputs", ())]
    found = keras.tree.flatten_with_path(functional.input if inputs is None else inputs)
    if len(own) != len(found) or any(isinstance(step, str) for path, _ in found for step in path):
        own = [
            ".".join(map(str, path)) if path and isinstance(path[-1], str) else f"input_{n}" for n, (path, _) in enumerate(found)
        ]
    return {name: x for name, (_, x) in zip(own, found, strict=True)}
