"""Products of a loss' Hessian with vectors, by differentiating twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def hessian_products(
    model: keras.Model, variables: Sequence[keras.Variable], loss: Callable[[Any, Any], Any]
) -> Callable[[tuple[Any, Any], Sequence[np.ndarray]], list[np.ndarray]]:
    """See `nncf_ext.adapter.Adapter.hessian_products`. Frozen variables are differentiated by like others."""
    weights = [variable.value for variable in variables]
    absent = tf.UnconnectedGradients.ZERO

    @tf.function(reduce_retracing=True)
    def products(inputs: Any, target: Any, vectors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(weights)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(weights)
                value = loss(model(inputs, training=False), target)
            gradients = _dense(inner.gradient(value, weights, unconnected_gradients=absent))
            slope = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)])
        return _dense(outer.gradient(slope, weights, unconnected_gradients=absent))

    def call(batch: tuple[Any, Any], directions: Sequence[np.ndarray]) -> list[np.ndarray]:
        vectors = [tf.cast(direction, weight.dtype) for direction, weight in zip(directions, weights, strict=True)]
        return [product.numpy() for product in products(*batch, vectors)]

    return call


def _dense(gradients: Any) -> list[tf.Tensor]:
    """An embedding's gradient is made of rows."""
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
