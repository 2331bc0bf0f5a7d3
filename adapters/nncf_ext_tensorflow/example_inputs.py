"""Inputs made up for a model that knows their shapes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from nncf_ext_tensorflow import keras_private


def made_up_inputs(model: Any, samples: int = 2, whole_numbers: bool = False) -> Any:
    """Arrays for a Functional or Sequential model: 32 for what is unknown, standard normal where the input is floating point.

    whole_numbers: zeros and ones there too, for an input that is an index in floating point. None for a model that does not know
    its inputs, or takes strings.
    """
    graph = keras_private.graph_of(model)
    if graph is None or any(x.dtype == "string" for x in graph.inputs):
        return None
    rng = np.random.default_rng(0)

    def array(x: keras.KerasTensor) -> Any:
        shape = tuple(32 if size is None else size for size in (samples, *x.shape[1:]))
        is_normal = keras.backend.is_float_dtype(x.dtype) and not whole_numbers
        made = rng.standard_normal(shape) if is_normal else rng.integers(0, 2, shape)
        return keras.ops.cast(keras.ops.convert_to_tensor(made), x.dtype)

    return keras.tree.map_structure(array, graph._inputs_struct)
