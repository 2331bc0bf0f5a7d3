"""What options of `compile` and `fit`, and Keras' own callbacks, are to the schedules."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, only_when_compressed

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
X = np.random.default_rng(0).random((32, 8)).astype("float32")
Y = X[:, :3]
SPARSE = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.1,
    "params": {"sparsity_target": 0.9, "sparsity_target_epoch": 3, "sparsity_freeze_epoch": 3},
}
RIGL = {
    "algorithm": "dynamic_sparse_training",
    "params": {"method": "rigl", "sparsity_target": 0.5, "update_interval": 4, "end": 99},
}


def compressed(algorithm=SPARSE, **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(10, "relu", name="a"), layers.Dense(3, name="b")], name="net")
    ctrl, model = create_compressed_model(model, NNCFConfig.from_dict({"compression": algorithm}))
    compiled = {"optimizer": "sgd", "loss": "mse", "run_eagerly": True, **compiled}
    model.compile(**compiled)
    return ctrl, model


def fit(ctrl, model, epochs, others=(), **settings):
    """8 batches in each epoch."""
    callbacks = [*create_compression_callbacks(ctrl, log_text=False), *others]
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks, **settings)


def zeros(ctrl):
    return ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers


def test_steps_per_execution_counts_steps_and_connections_still_move(caplog):
    ctrl, model = compressed(RIGL, run_eagerly=False, steps_per_execution=3)
    fit(ctrl, model, 2)
    assert (ctrl.scheduler.current_step, ctrl.clock.steps_per_epoch, ctrl.clock.step_in_epoch) == (15, 8, 7)
    assert ctrl.statistics().dynamic_sparse_training.updates == 3  # at steps 4, 8 and 12
    assert [record.message for record in caplog.records] == [
        "steps_per_execution: schedules move between executions only, here of 3 optimizer steps"
    ]


def test_accumulated_gradients_are_one_step(caplog):
    ctrl, model = compressed(RIGL, optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    fit(ctrl, model, 5)
    assert (ctrl.scheduler.current_step, ctrl.clock.steps_per_epoch) == (9, 2)
    assert ctrl.statistics().dynamic_sparse_training.updates == 2  # at steps 4 and 8
    assert not caplog.records


def test_a_model_that_its_own_optimizer_does_not_train_counts_batches():
    ctrl, model = compressed(RIGL)
    optimizer = keras.optimizers.SGD(0.1)

    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = model

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.net(data[0], training=True) - data[1]) ** 2)
            variables = self.net.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return {"loss": loss}

    outer = Gan()
    outer.compile("sgd", run_eagerly=True)
    fit(ctrl, outer, 2)
    assert ctrl.scheduler.current_step == 15 and ctrl.statistics().dynamic_sparse_training.updates == 3


def test_a_second_fit_goes_on():
    ctrl, model = compressed()
    levels = []
    for _ in range(4):
        fit(ctrl, model, 1)
        levels.append((ctrl.scheduler.current_epoch, round(zeros(ctrl), 2)))
    assert levels[0] == (0, pytest.approx(0.1, abs=0.01)) and levels[-1] == (3, pytest.approx(0.9, abs=0.01))
    ctrl, model = compressed()
    fit(ctrl, model, 4, initial_epoch=3)
    assert (ctrl.scheduler.current_epoch, zeros(ctrl)) == (3, pytest.approx(0.9, abs=0.01))


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch, batch=None):
        super().__init__()
        self.at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.at == (epoch, None):
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        if self.at == (self.epoch, batch):
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("every", "stop", "steps"),
    [("epoch", Stop(2), 32), ("epoch", Stop(2, 4), 32), (3, Stop(2, 4), 37)],
    ids=["between epochs", "back to the last epoch", "in the middle of one, which begins again"],
)
def test_backup_and_restore_brings_the_schedule_back(tmp_path, every, stop, steps):
    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), every)

    ctrl, model = compressed()
    with pytest.raises(KeyboardInterrupt):
        fit(ctrl, model, 4, [backup(), stop])
    ctrl, model = compressed()
    fit(ctrl, model, 4, [backup()])
    assert (ctrl.scheduler.current_epoch, ctrl.scheduler.current_step + 1) == (3, steps)
    assert (ctrl.clock.steps_per_epoch, int(model.optimizer.iterations)) == (8, steps)
    assert zeros(ctrl) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("name", ["best.weights.h5", "whole.keras"])
def test_weights_that_are_loaded_bring_the_schedule_back(tmp_path, name):
    ctrl, model = compressed()
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / name), save_weights_only=name.endswith("h5"))
    fit(ctrl, model, 3, [checkpoint])
    other, again = compressed()
    if name.endswith("keras"):  # through a model without a controller
        keras.models.load_model(tmp_path / name).save_weights(tmp_path / "best.weights.h5")
    again.load_weights(tmp_path / "best.weights.h5")
    assert other.get_state() == ctrl.get_state() and other.scheduler.current_epoch == 2
    fit(other, again, 1)
    assert (other.scheduler.current_epoch, zeros(other)) == (3, pytest.approx(0.9, abs=0.01))


def test_the_best_model_is_a_compressed_one(tmp_path, caplog):
    """The validation loss rises with the zeros: a network whose every epoch is worse than the one before."""
    ctrl, model = compressed(optimizer=keras.optimizers.SGD(0.0))
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    best = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), "val_loss", save_best_only=True, save_weights_only=True
    )
    every = keras.callbacks.ModelCheckpoint(str(tmp_path / "every{epoch}.weights.h5"), save_weights_only=True)
    losses = model.evaluate(X, Y, verbose=0)
    fit(ctrl, model, 9, [stopping, best, every], validation_data=(X, Y))
    assert zeros(ctrl) == pytest.approx(0.9, abs=0.01) and model.evaluate(X, Y, verbose=0) != losses
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0].isdigit()) == ["4.weights.h5"]
    assert (tmp_path / "every1.weights.h5").exists() and stopping.stopped_epoch == 5  # patience counts from epoch 3 on
    assert [record.message for record in caplog.records] == [
        "EarlyStopping, ModelCheckpoint: begins to judge models once the compression stage is FULLY_COMPRESSED"
    ]
    assert "on_epoch_end" not in vars(stopping)
    ctrl.strip()


def test_training_that_ends_too_early_is_told(caplog):
    ctrl, model = compressed()
    fit(ctrl, model, 2, [keras.callbacks.EarlyStopping("loss", restore_best_weights=True)])
    assert "EarlyStopping: judged no model, because training ended before compression did" in caplog.text
    with pytest.warns(UserWarning, match="magnitude_sparsity has not reached its target: found .* zeros, expected 90.0%"):
        ctrl.strip()


def test_a_callback_of_ones_own_waits_where_it_is_told_to():
    ctrl, model = compressed()
    epochs = []
    own = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    fit(ctrl, model, 5, [only_when_compressed(ctrl, own)])
    assert epochs == [3, 4]


def test_nothing_waits_where_nothing_is_scheduled(caplog):
    caplog.set_level(logging.INFO)
    ctrl, model = compressed({"algorithm": "quantization"})
    stopping = keras.callbacks.EarlyStopping("loss")
    fit(ctrl, model, 1, [stopping])
    model.fit(X, Y, batch_size=4, verbose=0)
    model.train_on_batch(X, Y)
    ctrl.strip()
    assert not caplog.records


def test_training_that_nobody_tells_the_schedule_of():
    for train in (lambda model: model.fit(X, Y, verbose=0), lambda model: model.train_on_batch(X, Y)):
        ctrl, model = compressed(run_eagerly=False)
        with pytest.warns(
            UserWarning, match=r"magnitude_sparsity: .* fit\(..., callbacks=create_compression_callbacks\(controller\)\)"
        ):
            train(model)


def own_loop(ctrl, model, compiled, after=lambda: None, before=lambda: None):
    """Two epochs of two steps."""
    optimizer = keras.optimizers.SGD(0.1)

    def train():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    train = tf.function(train) if compiled else train
    for _ in range(2):
        ctrl.scheduler.epoch_step()
        for _ in range(2):
            before()
            train()
            after()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_loop_that_steps_the_schedule_after_the_optimizer_says_nothing(compiled):
    for order in ("after", "before"):
        ctrl, model = compressed(RIGL)
        own_loop(ctrl, model, compiled, **{order: ctrl.scheduler.step})
    ctrl, model = compressed(RIGL)
    with pytest.warns(UserWarning, match=r"expected controller.scheduler.step\(\) before each optimizer step, or") as told:
        own_loop(ctrl, model, compiled)
    assert len(told) == 1


def test_callbacks_of_ones_own_may_step_the_schedule_after_the_optimizer():
    for eager, several in ((True, 1), (False, 1), (False, 2)):
        ctrl, model = compressed(RIGL, run_eagerly=eager, steps_per_execution=several)
        own = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs, c=ctrl: c.scheduler.epoch_step(),
            on_train_batch_end=lambda batch, logs, c=ctrl: c.scheduler.step(),
        )
        model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[own])


def test_steps_of_one_execution_are_not_taken_for_steps_that_nobody_tells_of():
    ctrl, model = compressed(RIGL, optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), steps_per_execution=4)
    fit(ctrl, model, 2)


@pytest.mark.filterwarnings("error::UserWarning")  # of a target that is not reached
@pytest.mark.parametrize("algorithm, wanted", [(RIGL, 0.5), (SPARSE, 0.9)], ids=["moving", "growing"])
@pytest.mark.parametrize("how", ["at the end", "every third step", "SwapEMAWeights"])
def test_averaged_weights_are_as_sparse_as_asked(algorithm, wanted, how):
    """Masks stay masks under Keras' average of weights, and hold for what it puts in their place."""
    every = 3 if how == "every third step" else None
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=every)
    ctrl, model = compressed(algorithm, optimizer=optimizer)
    before = model.get_layer("a").kernel.numpy()
    fit(ctrl, model, 4, [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if how == "SwapEMAWeights" else [])
    assert {variable.dtype for variable in model.variables if variable.name.endswith("mask")} == {"bool"}
    stripped = ctrl.strip()
    kernels = [layer.kernel.numpy() for layer in stripped.layers]
    assert sum((k == 0).sum() for k in kernels) == pytest.approx(wanted * sum(k.size for k in kernels), abs=2)
    np.testing.assert_allclose(stripped(X), model(X), rtol=1e-5, atol=1e-6)
    kept = kernels[0] != 0
    assert np.abs(kernels[0] - before)[kept].max() > 0.001
    if how == "at the end":
        place = next(i for i, v in enumerate(optimizer._trainable_variables) if v is model.get_layer("a").kernel)
        average = optimizer._model_variables_moving_average[place].numpy()
        np.testing.assert_array_equal(kernels[0], np.where(kept, average, 0))
