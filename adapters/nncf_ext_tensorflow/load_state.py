"""Weights into a Keras model from another one, a checkpoint, or arrays by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from nncf_ext.checkpoint import load_checkpoint
from nncf_ext.state_matching import Given, load_matching
from nncf_ext_tensorflow.adapter import KerasAdapter


def load_state(
    model: keras.Model,
    state_to_load: keras.Model | str | os.PathLike[str] | Mapping[str, Any],
    is_resume: bool = False,
    keys_to_ignore: Iterable[str] | None = None,
) -> int:
    """Load what `state_to_load` has for `model` (either may be compressed or plain); returns how many tensors were loaded.

    state_to_load: a model, a file that `ctrl.save_checkpoint` wrote, or arrays by the names that such a file has. Layers are the
    same where their names are. is_resume: every tensor must find its place and the other way round, else RuntimeError and nothing
    is loaded; without it what is left over is named in a warning. keys_to_ignore: names that need no place.

    >>> def compressed():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="network")
    ...     return create_compressed_model(model, NNCFConfig.from_dict({"compression": {"algorithm": "magnitude_sparsity"}}))[1]
    >>> load_state(compressed(), compressed(), is_resume=True)  # kernel, bias and mask
    3
    """
    adapter, ignored = KerasAdapter(), set(keys_to_ignore or ())
    if isinstance(state_to_load, keras.Model):
        given: Mapping[str, Any] = adapter.tensors(state_to_load)
    elif isinstance(state_to_load, str | os.PathLike):
        given = load_checkpoint(state_to_load)[0]
    else:
        given = state_to_load
    tensors = (Given(name, name, np.asarray(value)) for name, value in given.items() if name not in ignored)
    return load_matching(tensors, adapter.tensors(model), partial(adapter.load_tensors, model), is_resume, ignored)
