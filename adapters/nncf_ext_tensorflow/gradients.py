"""The gradient of a loss by all weights, for what searches among weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def loss_gradients(
    model: keras.Model,
    weights: Mapping[str, keras.Variable],
    loss: Callable[[Any, Any], Any],
    batch: tuple[Any, Any],
    factor: float,
) -> tuple[float, float, dict[str, np.ndarray]]:
    """See `nncf_ext.adapter.Adapter.loss_gradients`; weights that the loss does not depend on are left out."""
    inputs, target = batch
    values, scale = [variable.value for variable in weights.values()], tf.constant(factor, tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([scale, *values])
        outputs = model(inputs, training=False)
        if tf.is_tensor(outputs):
            outputs = outputs * tf.cast(scale, outputs.dtype)
        value = loss(outputs, target)
    found_gradients: Any = tape.gradient(value, [scale, *values])
    by_factor, *gradients = found_gradients
    found = {
        name: tf.convert_to_tensor(gradient).numpy()  # an embedding's gradient is made of rows
        for name, gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    }
    return float(value), 0.0 if by_factor is None else float(by_factor), found
