"""The demo's network in `fit`: what a resumed run computes, and what a failed start leaves behind."""

import json

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args
from nncf_ext_tensorflow.demo import digits_net

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import demo
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
STEPS, BATCH = 2, 32
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def data():
    digits = demo.load_digits()
    return digits.train_images[:192, ..., None], digits.train_labels[:192]


def demo_config(data):
    images, labels = data
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    with demo.config_file() as path:
        return register_default_init_args(NNCFConfig.from_json(path), batches, BATCH)


def fresh_net(seed):
    keras.utils.clear_session()  # so that the layers get the same names again
    keras.utils.set_random_seed(seed)
    return digits_net()


def train(ctrl, model, data, epochs):
    losses = []
    for epoch in epochs:
        part = slice(epoch * STEPS * BATCH, (epoch + 1) * STEPS * BATCH)
        callbacks = create_compression_callbacks(ctrl, log_text=False)
        history = model.fit(
            data[0][part],
            data[1][part],
            batch_size=BATCH,
            shuffle=False,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=callbacks,
            verbose=0,
        )
        losses += history.history["loss"]
    return losses


@pytest.mark.slow
def test_a_resumed_run_takes_the_same_steps_bit_for_bit(data, tmp_path):
    """As a user saves: weights and optimizer by Keras, and the compression state, which is JSON."""
    model = fresh_net(0)
    weights = model.get_weights()
    ctrl, model = create_compressed_model(model, demo_config(data))
    compile_model(model, "adam", LOSS)
    train(ctrl, model, data, range(1))
    model.save_weights(tmp_path / "epoch1.weights.h5")
    (tmp_path / "state.json").write_text(json.dumps(ctrl.get_compression_state()))
    expected = train(ctrl, model, data, range(1, 3))
    final = model.get_weights()

    teacher = fresh_net(2)
    teacher.set_weights(weights)
    state = json.loads((tmp_path / "state.json").read_text())
    ctrl, resumed = create_compressed_model(fresh_net(1), demo_config(data), state, teacher=teacher)
    compile_model(resumed, "adam", LOSS)
    resumed.load_weights(tmp_path / "epoch1.weights.h5")
    assert train(ctrl, resumed, data, range(1, 3)) == expected
    for ours, theirs in zip(final, resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_failing_adaptation_leaves_the_plain_model(data):
    model = fresh_net(0)
    before = model.get_weights()
    config = {"compression": {"algorithm": "magnitude_sparsity"}}
    wrong = [(data[0][:BATCH], data[1][:BATCH]), (np.zeros((BATCH, 8, 8, 3), np.float32), data[1][:BATCH])]
    with pytest.raises(ConfigError, match="batch-norm adaptation: the model does not run on the data loader's inputs"):
        create_compressed_model(model, register_default_init_args(NNCFConfig.from_dict(config), wrong, BATCH))
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    create_compressed_model(model, demo_config(data))


def test_tensorboard_that_is_not_there_is_told_before_training(data, monkeypatch, tmp_path):
    ctrl, _ = create_compressed_model(fresh_net(0), demo_config(data))
    monkeypatch.setattr("nncf_ext_tensorflow.callbacks.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="TensorBoard is not installed"):
        create_compression_callbacks(ctrl, log_dir=str(tmp_path))


def test_the_distillation_loss_reaches_fit_by_itself(data):
    """The task's loss is always zero here, so that whatever moves the weights is the distillation."""
    model = fresh_net(0)
    config = NNCFConfig.from_dict({"compression": [{"algorithm": "knowledge_distillation", "type": "mse"}]})
    teacher = fresh_net(1)
    expected = float(np.mean((np.asarray(model(data[0][:BATCH], training=True)) - np.asarray(teacher(data[0][:BATCH]))) ** 2))
    ctrl, model = create_compressed_model(model, config, teacher=teacher)
    compile_model(model, keras.optimizers.SGD(0.01), lambda y, outputs: 0 * outputs[:, 0])
    before = [variable.numpy() for variable in model.trainable_variables]
    history = model.fit(data[0][:BATCH], data[1][:BATCH], batch_size=BATCH, verbose=0)
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert any((variable.numpy() != value).any() for variable, value in zip(model.trainable_variables, before, strict=True))
