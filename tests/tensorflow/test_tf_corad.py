"""CORAD in Keras: what switching terms off leaves of `fit`, ramps that a traced step sees, exact zeros."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks

from nncf_ext import NNCFConfig

X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
Y = np.arange(64) % 3
MATCHING = {"type": "kl", "temperature": 2, "weight": 0.5}


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(12, "relu", name="fc1"), keras.layers.Dense(3, name="fc2")])


def compressed(regularization, distillation=None, **keys):
    entry = {
        "algorithm": "corad",
        "regularization": regularization,
        **({"distillation": distillation} if distillation else {}),
        **keys,
    }
    return create_compressed_model(net(), NNCFConfig.from_dict({"compression": entry}))


def fit(model, callbacks=(), epochs=3):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)).history["loss"]


def callbacks_of(ctrl):
    return create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)


@pytest.mark.filterwarnings("ignore:corad has not reached its target:UserWarning")  # in the warm-up
@pytest.mark.parametrize("waiting", [{"weight": 0}, {"warmup_epochs": 9}])
def test_switched_off_it_is_plain_training_bit_for_bit(waiting):
    plain = net()
    losses = fit(plain)
    ctrl, model = compressed({"type": "l1", "proximal_step": 0.1, "weight": 2, **waiting}, {**MATCHING, **waiting})
    assert fit(model, callbacks_of(ctrl)) == losses
    for ours, theirs in zip(ctrl.strip().get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["l1", "group_lasso"])
def test_proximal_steps_make_exact_zeros_in_fit(kind):
    ctrl, model = compressed({"type": kind, "weight": 30, "proximal_step": 0.1}, MATCHING)
    fit(model, callbacks_of(ctrl), epochs=15)
    report, stripped = ctrl.statistics().corad, ctrl.strip()
    kernels = [stripped.get_layer(name).kernel.numpy() for name in ("fc1", "fc2")]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert report.sparsity_level_for_layers == zeros / 108 and zeros > 10
    if kind == "group_lasso":
        assert all(((kernel == 0).all(0) == (kernel == 0).any(0)).all() for kernel in kernels)
    np.testing.assert_array_equal(stripped(X), model(X))


@pytest.mark.parametrize("how", ["eager", "compiled", "accumulated", "scaled"])
def test_a_proximal_step_follows_each_step_of_the_optimizer_once(how):
    """As in a loop that makes both by hand: sign(w) * max(|w| - 0.1 * 10 / 108, 0). In a compiled function it is a part of it."""
    ctrl, model = compressed({"type": "l1", "weight": 10, "proximal_step": 0.1})
    plain = net()
    batches = 2 if how == "accumulated" else 1
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=batches if batches > 1 else None)
    if how == "scaled":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    kernels = [plain.get_layer(name).kernel for name in ("fc1", "fc2")]

    def step(model, optimizer, whole=lambda loss: loss):
        with tf.GradientTape() as tape:
            loss = whole(task(Y, model(X, training=True)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    ours = step if how == "eager" else tf.function(step)
    scaled = optimizer.scale_loss if how == "scaled" else lambda loss: loss
    by_hand = keras.optimizers.SGD(0.1)
    for _ in range(3):
        ctrl.scheduler.step()
        for _ in range(batches):
            ours(model, optimizer, lambda loss: scaled(ctrl.total_loss(loss)))
        step(plain, by_hand)
        for kernel in kernels:
            kernel.assign(np.sign(kernel) * np.maximum(np.abs(kernel) - 10 * 0.1 / 108, 0))
        for mine, theirs in zip(model.trainable_variables, plain.trainable_variables, strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6, err_msg=mine.path)


def test_a_ramp_is_seen_by_a_traced_step():
    """Without a task's loss to speak of, the loss of an epoch is lambda times the regulariser of the raw weights."""
    ctrl, model = compressed({"type": "l1", "weight": 4, "schedule": "linear", "ramp_epochs": 2})
    mean = np.mean([np.abs(layer.kernel).sum() for layer in model.layers]) * 2 / 108
    model.compile(keras.optimizers.SGD(0.0), loss=lambda y, outputs: 0 * outputs)
    losses = model.fit(X, Y, batch_size=64, epochs=4, verbose=0, callbacks=callbacks_of(ctrl)).history["loss"]
    assert losses == pytest.approx([0, 2 * mean, 4 * mean, 4 * mean], rel=1e-5)
