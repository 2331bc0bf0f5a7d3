"""Accuracy-aware training of a small network on real digits, around Keras' `fit`."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import accuracy_aware_fit, create_compressed_model

from nncf_ext import NNCFConfig
from nncf_ext.tools import demo
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
CONFIG = {
    "input_info": {"sample_size": [1, 64]},
    "compression": {
        "algorithm": "magnitude_sparsity",
        "params": {"sparsity_target": 0.5, "sparsity_target_epoch": 1, "sparsity_freeze_epoch": 9},
    },
    "accuracy_aware_training": {
        "mode": "adaptive_compression_level",
        "params": {
            "initial_training_phase_epochs": 2,
            "patience_epochs": 2,
            "maximal_absolute_accuracy_degradation": 0.05,
            "initial_compression_rate_step": 0.2,
            "minimal_compression_rate_step": 0.1,
        },
    },
}


class DiesIn(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.epochs = epoch, []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt
        self.epochs.append(epoch)


class Training:
    def __init__(self, learning_rate=1e-3):
        data = demo.load_digits()
        self.train = data.train_images.reshape(-1, 64), data.train_labels
        self.test = data.test_images.reshape(-1, 64), data.test_labels
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        layers = [keras.Input((64,)), keras.layers.Dense(24, "relu", name="a"), keras.layers.Dense(10, name="b")]
        self.model = keras.Sequential(layers)
        self._compile(1e-2)
        self.model.fit(*self.train, batch_size=64, epochs=6, verbose=0)
        self.accuracy = self.model.evaluate(*self.test, return_dict=True, verbose=0)["accuracy"]
        self.config = NNCFConfig.from_dict(CONFIG)
        self.ctrl, _ = create_compressed_model(self.model, self.config)
        self._compile(learning_rate)

    def _compile(self, learning_rate):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        compile_model(self.model, keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])

    def run(self, folder, **arguments):
        arguments = {"validation_data": self.test, **arguments}
        return accuracy_aware_fit(
            self.model,
            self.train[0],
            self.ctrl,
            self.config,
            self.accuracy,
            log_dir=folder,
            verbose=False,
            y=self.train[1],
            batch_size=64,
            shuffle=False,
            **arguments,
        )


@pytest.mark.slow
def test_adaptive_goes_on_after_a_kill_to_the_same_bits(tmp_path):
    whole, all_epochs = Training(), DiesIn(None)
    expected = whole.run(tmp_path / "whole", callbacks=[all_epochs])
    assert expected.compression_rate >= 0.7 and expected.accuracy_budget >= 0
    again = whole.model.evaluate(*whole.test, return_dict=True, verbose=0)["accuracy"]
    assert again == pytest.approx(expected.compressed_accuracy)

    with pytest.raises(KeyboardInterrupt):
        Training().run(tmp_path / "killed", callbacks=[DiesIn(3)])
    resumed, epochs = Training(), DiesIn(None)
    assert resumed.run(tmp_path / "killed", callbacks=[epochs]) == expected
    assert epochs.epochs == all_epochs.epochs[3:]
    for ours, theirs in zip(whole.model.weights, resumed.model.weights, strict=True):
        assert np.array_equal(ours, theirs), ours.path


def test_mistakes(tmp_path):
    training = Training()
    with pytest.raises(ValueError, match="neither validation_data nor validate_fn"):
        training.run(tmp_path, validation_data=None)
    decay = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    with pytest.raises(ValueError, match="found an optimizer with a LearningRateSchedule"):
        Training(decay).run(tmp_path)
