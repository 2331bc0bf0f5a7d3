"""Rounds of pruning in Keras: dropout that follows in compiled training, dead neurons that leave the stripped model."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks

from nncf_ext import NNCFConfig


def net(width=32, rate=0.5):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    dense = [
        keras.layers.Dense(width, "relu", name="a"),
        keras.layers.Dropout(rate, name="drop"),
        keras.layers.Dense(10, name="b"),
    ]
    return keras.Sequential([keras.Input((64,)), *dense])


def compressed(model, **params):
    entry = {"algorithm": "iterative_magnitude", "params": {"epochs_per_round": 1, **params}}
    return create_compressed_model(model, NNCFConfig.from_dict({"compression": entry}))


def test_dropout_falls_in_fit():
    ctrl, model = compressed(net(), sparsity_target=0.75, rounds=2, remove_dead_neurons=False)
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(model.get_layer("drop").rate)

    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(0).normal(size=(64, 64)).astype("float32"), np.arange(64) % 10
    callbacks = [*create_compression_callbacks(ctrl, log_text=False), Rates()]
    model.fit(x, y, epochs=3, verbose=0, callbacks=callbacks)
    assert rates == pytest.approx([0.5 * 0.5**0.5, 0.25, 0.25], abs=2e-3)
    assert dict(ctrl.statistics().iterative_magnitude.dropout) == {"drop": pytest.approx(0.25, abs=2e-3)}


def test_dead_neurons_leave_the_stripped_model():
    model = net(16)
    first, last = model.get_layer("a"), model.get_layer("b")
    first.kernel.assign(first.kernel.numpy() * np.where(np.arange(16) == 3, 1e-3, 1))
    last.kernel.assign(last.kernel.numpy() * np.where(np.arange(16) == 5, 1e-3, 1)[:, None])
    ctrl, model = compressed(model, sparsity_target=0.3, rounds=1)
    ctrl.scheduler.epoch_step()
    assert ctrl.statistics().iterative_magnitude.dead_neurons == 2
    x = np.random.default_rng(0).normal(size=(7, 64)).astype("float32")
    plain = ctrl.strip()
    assert plain.get_layer("a").kernel.shape == (64, 14)
    np.testing.assert_allclose(plain(x), model(x, training=False), atol=1e-5)
