"""The algorithms' losses, wherever the loss of a training step is computed."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks

from nncf_ext import NNCFConfig

X = np.random.default_rng(0).random((16, 8)).astype("float32")
Y = X[:, :3]
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
SPARSE = {"algorithm": "rb_sparsity", "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 0}}
DISTILLED = {"algorithm": "knowledge_distillation", "type": "mse", "task_weight": 0.25}


def compressed(kind=keras.Model, algorithm=SPARSE):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    model = kind(inputs, layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))(inputs))
    return create_compressed_model(model, NNCFConfig.from_dict({"compression": algorithm}))


def scores(ctrl):
    return ctrl.variable_values(next(iter(ctrl.plan)))["scores"]


def moved(ctrl, trained, **compiled):
    """How far one step of SGD moves the scores."""
    before = scores(ctrl)
    trained.compile(keras.optimizers.SGD(1.0), "mse", **compiled)
    trained.fit(DATA, epochs=1, verbose=0, shuffle=False, callbacks=create_compression_callbacks(ctrl, log_text=False))
    return scores(ctrl) - before


class Around(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def functional(inner):
    inputs = keras.Input((8,))
    return keras.Model(inputs, inner(inputs))


@pytest.fixture(scope="module")
def expected():
    """Of `fit` of the compressed model itself; the loss is what moves the scores."""
    ctrl, model = compressed()
    step = moved(ctrl, model)
    assert step.max() < -1e-3
    return step


@pytest.mark.parametrize(
    "around",
    [
        Around,
        lambda m: Around(Around(m)),
        functional,
        lambda m: keras.Sequential([m]),
        lambda m: functional(keras.Sequential([m])),
    ],
    ids=["subclassed", "twice", "functional", "sequential", "functional twice"],
)
def test_a_model_around_the_compressed_one_trains_with_its_losses(expected, around):
    ctrl, model = compressed()
    trained = around(model)
    trained(X[:1])
    np.testing.assert_allclose(moved(ctrl, trained), expected, rtol=1e-5)


def test_they_are_not_in_the_loss_of_a_validation():
    ctrl, model = compressed()
    trained = functional(model)
    trained.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    own = float(np.mean((trained(X) - Y) ** 2) + 0.1 * np.sum(np.square(model.layers[-1].kernel)))
    history = trained.fit(
        DATA, validation_data=DATA, verbose=0, shuffle=False, callbacks=create_compression_callbacks(ctrl, log_text=False)
    ).history
    np.testing.assert_allclose(history["val_loss"], own, rtol=1e-5)
    assert history["loss"][0] > own + 0.5
    np.testing.assert_allclose(float(trained.evaluate(DATA, verbose=0)), own, rtol=1e-5)


class OwnStep(keras.Model):
    """keras.io: customizing what happens in fit."""

    extra = staticmethod(lambda model: 0.0)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2) + self.extra(self)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def test_a_train_step_of_ones_own_is_refused_without_them_and_right_with_them(expected):
    ctrl, model = compressed(OwnStep)
    with pytest.raises(RuntimeError, match="rb_sparsity: the model is trained without the loss.*sum\\(self.losses\\)"):
        moved(ctrl, model)
    for extra in (
        lambda model, ctrl: sum(model.losses),
        lambda model, ctrl: ctrl.loss(),
        lambda model, ctrl: sum(model.losses) + ctrl.loss(),
        lambda model, ctrl: ctrl.loss() + sum(model.losses),
    ):
        ctrl, model = compressed(OwnStep)
        model.extra = functools.partial(extra, ctrl=ctrl)
        np.testing.assert_allclose(moved(ctrl, model), expected, rtol=1e-5)
        assert float(ctrl.loss()) > 1, "afterwards it is there to look at"


def tape_step(ctrl, model, loss_of):
    optimizer = keras.optimizers.SGD(1.0)
    before = scores(ctrl)
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(tf.reduce_mean((model(X, training=True) - Y) ** 2))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    step()
    return scores(ctrl) - before


@pytest.mark.slow
def test_a_loop_of_ones_own_counts_them_once(expected):
    for loss_of in (
        lambda task, ctrl, model: task + ctrl.loss(),
        lambda task, ctrl, model: ctrl.total_loss(task),
        lambda task, ctrl, model: task + sum(model.losses),
        lambda task, ctrl, model: ctrl.total_loss(task + sum(model.losses)),
    ):
        ctrl, model = compressed()
        found = tape_step(ctrl, model, lambda task, c=ctrl, m=model, f=loss_of: f(task, c, m))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    ctrl, model = compressed()
    with pytest.raises(RuntimeError, match="without the loss"):
        tape_step(ctrl, model, lambda task: task)


class Distiller(keras.Model):
    """keras.io's, whose loss is all its own."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def call(self, x, training=None):
        return self.student(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y_pred - self.teacher(x, training=False)) ** 2)


def test_a_distiller_and_layers_taken_out_of_the_model_are_refused():
    ctrl, model = compressed()
    teacher = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    with pytest.raises(RuntimeError, match="without the loss"):
        moved(ctrl, Distiller(model, teacher))
    ctrl, model = compressed()
    with pytest.raises(RuntimeError, match="without the loss"):
        moved(ctrl, keras.Model(model.input, layers.Dense(3)(model.output)))


def test_a_discriminator_beside_it_is_not_concerned():
    """A GAN: the compressed generator runs in the discriminator's step too, and only its own step needs its losses."""
    ctrl, generator = compressed()
    discriminator = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    optimizers = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()

    def step(model, optimizer, extra):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(discriminator(generator(X, training=True), training=True)) + extra()
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))

    step(discriminator, optimizers[0], lambda: 0.0)
    step(generator, optimizers[1], ctrl.loss)
    with pytest.raises(RuntimeError, match="without the loss"):
        step(generator, optimizers[1], lambda: 0.0)


@pytest.mark.slow
def test_the_weight_of_the_tasks_loss_acts_or_is_refused():
    ctrl, model = compressed(algorithm=DISTILLED)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    callbacks = create_compression_callbacks(ctrl, log_text=False)
    own = float(np.mean((model(X) - Y) ** 2) + 0.1 * np.sum(np.square(model.layers[-1].kernel)))
    np.testing.assert_allclose(
        model.fit(DATA, verbose=0, shuffle=False, callbacks=callbacks).history["loss"], 0.25 * own, rtol=1e-5
    )
    ctrl, model = compressed(algorithm=DISTILLED)
    outer = functional(model)
    outer.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=r"knowledge_distillation: .*controller.total_loss\(loss\)"):
        outer.fit(DATA, verbose=0, shuffle=False, callbacks=create_compression_callbacks(ctrl, log_text=False))
    ctrl, model = compressed(algorithm=DISTILLED)
    with pytest.warns(UserWarning, match="the config weighs the task's loss, and the loop does not"):
        optimizer = keras.optimizers.SGD(0.1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2) + ctrl.loss()
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
