"""What layers learn from data and keep in no variable: vocabularies, and the bounds of bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from nncf_ext.adapter import Table
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.naming import names_in

_WEIGHTS = "|idf_weights"  # behind the name of a layer that weighs words by how rare they are


def tables_of(model: Any) -> dict[str, Table]:
    """By the layer's name; layers that have learned nothing yet are left out."""
    found: dict[str, Table] = {}
    for name, layer in _layers(model).items():
        found[name] = _table(layer)
        if _weighs_words(layer):
            found[name + _WEIGHTS] = keras_private.word_weights(layer, len(found[name]))
    return {name: table for name, table in found.items() if table}


def load_tables(model: Any, tables: Mapping[str, Table]) -> None:
    """ValueError, and nothing changed, where they are not of this model's layers."""
    layers = _layers(model)
    for name, table in tables.items():
        layer = layers.get(name.removesuffix(_WEIGHTS))
        if layer is None:
            raise ValueError(f"it has a vocabulary or bins of {name}, which this model does not have")
        numbers = isinstance(layer, keras.layers.Discretization) or name.endswith(_WEIGHTS)
        kinds = (int, float) if numbers else (str, int)
        if not isinstance(table, Sequence) or isinstance(table, str) or not all(type(each) in kinds for each in table):
            raise ValueError(f"the vocabulary or bins of {name}: expected a list of {' or '.join(k.__name__ for k in kinds)}")
    for name, layer in layers.items():
        if _weighs_words(layer) and len(tables.get(name, ())) != len(tables.get(name + _WEIGHTS, ())):
            raise ValueError(f"the vocabulary of {name}: expected a weight for each word")
    before = tables_of(model)
    for name in tables:
        if name in layers and any(before.get(key) != tables.get(key) for key in (name, name + _WEIGHTS)):
            _give(layers[name], list(tables[name]), tables.get(name + _WEIGHTS))
            keras_private.forget_compiled_functions(model)


def _layers(model: Any) -> dict[str, Any]:
    names = names_in(model).layers
    return {
        names[id(layer)]: layer
        for layer in keras_private.layers_in(model)[1:]
        if id(layer) in names and (isinstance(layer, keras.layers.Discretization) or keras_private.has_assets(layer))
    }


def _table(layer: Any) -> list[Any]:
    if isinstance(layer, keras.layers.Discretization):
        return [float(bound) for bound in layer.bin_boundaries or ()]
    return [word if isinstance(word, str) else int(word) for word in layer.get_vocabulary(include_special_tokens=False)]


def _weighs_words(layer: Any) -> bool:
    return keras_private.has_assets(layer) and layer.get_config().get("output_mode") == "tf_idf"


def _give(layer: Any, table: list[Any], weights: Table | None) -> None:
    if isinstance(layer, keras.layers.Discretization):
        layer.bin_boundaries = table
    elif weights is None:
        layer.set_vocabulary(table)
    else:
        layer.set_vocabulary(table, list(weights))
