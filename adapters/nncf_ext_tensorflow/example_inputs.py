"""Inputs that a model runs on: what was traced, what is made up of the shapes it knows, or what was registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    return keras.tree.map_structure(array, graph.input)


def running_inputs(model: Any, example: Any = None, registered: Callable[[], Any] | None = None, samples: int = 2) -> Any:
    """The first inputs that `model` runs on of: the example, made-up ones, a batch that was registered. None where there
    are no such inputs. Random generators and recurrent layers keep their states.
    """
    for inputs in _candidates(model, example, registered, samples):
        try:
            with states_kept(model):
                model(inputs, training=False)
        except Exception:  # inputs that are made up need not be what the model takes
            continue
        return inputs
    return None


def _candidates(model: Any, example: Any, registered: Callable[[], Any] | None, samples: int) -> Iterator[Any]:
    if example is not None:
        yield example
    for whole_numbers in (False, True):
        made_up = made_up_inputs(model, samples, whole_numbers)
        if made_up is not None:
            yield made_up
    given = None if registered is None else registered()
    if given is not None:
        yield given


@contextmanager
def states_kept(model: Any) -> Iterator[None]:
    """The states of random generators and recurrent layers are afterwards what they were."""
    states = [(v, v.numpy()) for layer in keras_private.layers_in(model) for v in keras_private.states(layer)]
    try:
        yield
    finally:
        for variable, value in states:
            variable.assign(value)


def no_inputs(model: Any) -> str:
    """What to say where `running_inputs` finds none."""
    return (
        f"model {model.name!r}: it runs on none of the inputs that can be made up for it, expected "
        "register_default_init_args(config, data loader) before create_compressed_model"
    )
