"""Choosing bits in Keras: products with the Hessian through layers that need care, and what the user registers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter
from nncf_ext_tensorflow.hessian import hessian_products

from nncf_ext import NNCFConfig
from nncf_ext.calibration.initialization import AutoQPrecisionInitArgs, QuantizationPrecisionInitArgs


def text_model() -> keras.Model:
    """An embedding, attention, BatchNorm and dropout, a frozen and an unused layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(7, 4, name="embedding")(inputs)
    x = L.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = L.Dropout(0.5)(L.BatchNormalization()(x))
    head = L.Dense(2, name="head", trainable=False)
    return keras.Model(inputs, head(L.GlobalAveragePooling1D()(x)))


def test_products_are_the_derivative_of_the_gradient():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")  # set_floatx does nothing once a model has been made
    try:
        model = text_model()
    finally:
        keras.config.set_dtype_policy(policy)
    weights = [
        model.get_layer("embedding").embeddings,
        model.get_layer("attention").query_dense.kernel,
        model.get_layer("head").kernel,
    ]
    rng = np.random.default_rng(0)
    batch = tf.constant(rng.integers(0, 7, (6, 5))), tf.constant(rng.normal(size=(6, 2)))
    signs = [rng.integers(0, 2, weight.shape, np.int8) * 2 - 1 for weight in weights]
    before = model.get_weights()

    def loss(outputs, target):
        return tf.reduce_mean(tf.square(outputs - target))

    products = hessian_products(model, weights, loss)(batch, signs)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))

    def gradients(step: float) -> list[np.ndarray]:
        for weight, sign in zip(weights, signs, strict=True):
            weight.assign(weight + step * sign)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in weights])
            value = loss(model(batch[0], training=False), batch[1])
        found = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, [weight.value for weight in weights])]
        for weight, sign in zip(weights, signs, strict=True):
            weight.assign(weight - step * sign)
        return found

    for product, up, down in zip(products, gradients(1e-5), gradients(-1e-5), strict=True):
        np.testing.assert_allclose(product, (up - down) / 2e-5, rtol=1e-4, atol=1e-8)


def test_evaluation_gives_everything_back():
    model = text_model()
    model.compile("sgd", "mse")
    x, y = np.zeros((8, 5), np.int32), np.zeros((8, 2), np.float32)
    before = [variable.numpy() for variable in model.variables]
    with KerasAdapter().preserving_state(model):
        model.fit(x, y, verbose=0)
    assert all((a == b.numpy()).all() for a, b in zip(before, model.variables, strict=True))


@pytest.mark.parametrize("criterion", ["mse", keras.losses.MeanSquaredError(), lambda y, p: keras.ops.square(y - p)])
def test_what_the_user_registers(criterion):
    config = NNCFConfig()
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 1), np.float32)
    score = lambda model, loader: 1.0  # noqa: E731
    register_default_init_args(config, [(x, y)], 2, criterion=criterion, autoq_eval_fn=score, val_loader=["v"])
    args = config.get_extra_struct(QuantizationPrecisionInitArgs)
    ((inputs, target),) = args.batches()
    assert (inputs.numpy() == x).all() and (target.numpy() == y).all()
    assert float(args.loss(keras.ops.ones((2, 1)) * 3, target)) == 9
    assert config.get_extra_struct(AutoQPrecisionInitArgs) == AutoQPrecisionInitArgs(score, ["v"])


def test_a_loss_of_the_users_own_and_bare_inputs():
    config = NNCFConfig()
    register_default_init_args(config, [np.ones((2, 3))], 2, criterion="c", criterion_fn=lambda o, t, c: (o, t, c))
    args = config.get_extra_struct(QuantizationPrecisionInitArgs)
    ((_, target),) = args.batches()
    assert target is None
    assert args.loss(1, 2) == (1, 2, "c")


def test_keras_has_no_files_of_tensors(tmp_path):
    with pytest.raises(ValueError, match="Keras has no files of one tensor: expected .npy, .safetensors or .json"):
        KerasAdapter().data.read_tensor(tmp_path / "traces.pt")
