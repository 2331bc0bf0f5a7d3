"""What models are compared by."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from nncf_ext.closeness import CLOSE

_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}  # of the largest output, by compute dtype


def tolerance_of(model: Any) -> float:
    """The largest difference to another model that computes the same, as a part of the largest value of an output."""
    return _TOLERANCES.get(model.compute_dtype, CLOSE)


def outputs_of(model: Any, example: Any) -> list[np.ndarray]:
    """Outputs of a model in inference mode."""
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in keras.tree.flatten(model(example, training=False))]
