"""What is written of a compressed model's inputs, and how a model tells that it is compressed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def attached_to(model: Any) -> Any:
    """The `KerasAttached` of a compressed model, else None."""
    return vars(model).get("_nncf_ext_attached")


def refuse_compressed(model: Any) -> None:
    """ValueError for a model that is compressed already."""
    if attached_to(model) is not None:
        raise ValueError(
            f"model {model.name!r} is compressed already, or was stripped with its quantizers: strip it with quantizers=False "
            "first, or compress an uncompressed copy"
        )


def input_specs(example: Any) -> Any:
    """An example of model inputs as JSON data; None where there is none."""
    if example is None:
        return None
    return keras.tree.map_structure(
        lambda x: {"shape": [1, *x.shape[1:]], "dtype": keras.backend.standardize_dtype(x.dtype)}, example
    )


def example_like(specs: Any) -> Any:
    """Zeros, or empty strings, of the shapes that `input_specs` wrote."""
    if specs is None:
        return None
    if isinstance(specs, dict) and set(specs) == {"shape", "dtype"}:
        if specs["dtype"] == "string":
            return np.full(specs["shape"], "", object)
        return np.zeros(specs["shape"], specs["dtype"])
    if isinstance(specs, dict):
        return {name: example_like(spec) for name, spec in specs.items()}
    return [example_like(spec) for spec in specs]
