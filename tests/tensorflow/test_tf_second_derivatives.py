"""Second derivatives of a compressed Keras model."""

import keras
import numpy as np
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args, twice_differentiable

from nncf_ext import NNCFConfig

X = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 32)


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(32, activation="tanh")(inputs)))


def hessian_product(model):
    kernels = [layer.kernel.value for layer in model.layers[-2:]]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            outputs = model(X, training=False)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y, outputs, from_logits=True))
        total = tf.add_n([tf.reduce_sum(gradient) for gradient in inner.gradient(loss, kernels)])
    return [None if g is None else np.ravel(g) for g in outer.gradient(total, kernels)]


def test_they_are_near_those_of_the_float_model_where_they_are_asked_for():
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    register_default_init_args(config, tf.data.Dataset.from_tensor_slices((X, Y)).batch(32), 32)
    _, model = create_compressed_model(net(), config)
    assert hessian_product(model) == [None, None]
    with twice_differentiable():
        found = hessian_product(model)
    for a, b in zip(found, hessian_product(net()), strict=True):
        assert a @ b > 0.9 * np.linalg.norm(a) * np.linalg.norm(b)
