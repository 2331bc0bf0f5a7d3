"""Sparse training in Keras: any optimizer, `fit` and loops of one's own, eager and compiled, resuming."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks

from nncf_ext import NNCFConfig
from nncf_ext.tools.demo import load_digits

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(policy):
    keras.utils.clear_session()
    keras.mixed_precision.set_global_policy(policy)
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(8, 3, name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(32, activation="relu", name="hidden"),
        keras.layers.Dense(10, name="last"),
    ]
    return keras.Sequential(layers)


def compressed(state=None, policy="float32", **params):
    params = {"sparsity_target": 0.8, "distribution": "uniform", "update_interval": 3, "end": 10, "anneal": "constant", **params}
    config = NNCFConfig.from_dict({"compression": {"algorithm": "dynamic_sparse_training", "params": params}})
    return create_compressed_model(net(policy), config, state)


def batch(step):
    digits = load_digits()
    start = 32 * step % 1024
    return digits.train_images[start : start + 32].reshape(-1, 8, 8, 1), digits.train_labels[start : start + 32]


def step_of(ctrl, model, optimizer):
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True)) + ctrl.loss()
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))
        return loss

    return step


def layers(ctrl):
    attached = ctrl._attached
    return [(attached._variable(edit.site), attached.variables(edit)["mask"].numpy()) for edit in ctrl.plan]


def states(ctrl, parameter):
    return [state.numpy() for state in ctrl._attached.optimizer_hook.states_of(parameter)]


OPTIMIZERS = {
    "SGD": (lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-2), 1),
    "Adam": (lambda: keras.optimizers.Adam(1e-2), 2),
    "AMSGrad": (lambda: keras.optimizers.Adam(1e-2, amsgrad=True), 3),
    "AdamW": (lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1), 2),
    "RMSprop": (lambda: keras.optimizers.RMSprop(1e-3, momentum=0.9, centered=True), 3),
    "Adagrad": (lambda: keras.optimizers.Adagrad(1e-2), 1),
    "Lion": (lambda: keras.optimizers.Lion(1e-3), 1),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("SGD", "Adam") else pytest.mark.slow) for name in OPTIMIZERS]
)
def test_connections_are_constant_and_start_from_nothing(name):
    ctrl, model = compressed()
    make, slots = OPTIMIZERS[name]
    optimizer = make()
    step = tf.function(step_of(ctrl, model, optimizer))
    counts = [int(mask.sum()) for _, mask in layers(ctrl)]
    before = [mask for _, mask in layers(ctrl)]
    for number in range(13):
        ctrl.scheduler.step()
        step(*batch(number))
        ctrl.after_optimizer_step()
        for (parameter, mask), old, count in zip(layers(ctrl), before, counts, strict=True):
            assert int(mask.sum()) == count
            assert (mask != old).any() == (number in (3, 6, 9))
            assert not parameter.numpy()[mask == 0].any()
            assert len(states(ctrl, parameter)) == slots
            for state in states(ctrl, parameter) if number in (3, 6, 9) or name != "Adagrad" else ():
                assert not state[mask == 0].any()
                assert not state[(mask == 1) & (old == 0)].any()
        before = [mask for _, mask in layers(ctrl)]
    assert ctrl.statistics().dynamic_sparse_training.updates == 3


@pytest.mark.slow
def test_eager_compiled_and_fit_train_alike():
    runs = {}
    for kind in ("eager", "compiled", "fit"):
        ctrl, model = compressed()
        optimizer = keras.optimizers.Adam(1e-2)
        data = [batch(number) for number in range(12)]
        if kind == "fit":
            model.compile(optimizer, LOSS)
            x, y = (np.concatenate([pair[i] for pair in data]) for i in (0, 1))
            callbacks = create_compression_callbacks(ctrl, log_text=False)
            model.fit(x, y, batch_size=32, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
        else:
            step = step_of(ctrl, model, optimizer)
            step = tf.function(step) if kind == "compiled" else step
            ctrl.scheduler.epoch_step()
            for pair in data:
                ctrl.scheduler.step()
                step(*pair)
            ctrl.after_optimizer_step()
        runs[kind] = [(parameter.numpy(), mask) for parameter, mask in layers(ctrl)]
    for kind in ("compiled", "fit"):
        for (ours, mask), (theirs, other) in zip(runs["eager"], runs[kind], strict=True):
            assert (mask == other).mean() > 0.99  # a tie in the last bit may move a connection
            np.testing.assert_allclose(ours[(mask == other)], theirs[(mask == other)], rtol=0.05, atol=5e-3)


def test_waiting_models_are_sparse():
    """Between a compiled step and the scheduler's next call nothing has moved yet, and the model computes as the stripped one."""
    ctrl, model = compressed()
    step = tf.function(step_of(ctrl, model, keras.optimizers.SGD(0.1, momentum=0.9)))
    for number in range(4):
        ctrl.scheduler.step()
        step(*batch(number))
    x = batch(9)[0]
    np.testing.assert_array_equal(model(x, training=False), ctrl.strip()(x, training=False))
    assert all(not parameter.numpy()[mask == 0].any() for parameter, mask in layers(ctrl))


@pytest.mark.parametrize(
    "method", ["rigl", pytest.param("set", marks=pytest.mark.slow), pytest.param("granet", marks=pytest.mark.slow)]
)
def test_resuming_in_the_middle_has_the_same_bits(method, tmp_path):
    def epochs(ctrl, step, numbers):
        for epoch in numbers:
            ctrl.scheduler.epoch_step()
            for number in range(4 * epoch, 4 * epoch + 4):
                ctrl.scheduler.step()
                step(*batch(number))

    ctrl, model = compressed(method=method)
    optimizer = keras.optimizers.Adam(1e-2)
    step = tf.function(step_of(ctrl, model, optimizer))
    epochs(ctrl, step, range(1))  # ends with a step in which connections move
    ctrl.save_checkpoint(tmp_path / "half.safetensors")
    state, moments = ctrl.get_compression_state(), [variable.numpy() for variable in optimizer.variables]
    epochs(ctrl, step, range(1, 4))
    ctrl.after_optimizer_step()

    resumed, again = compressed(state=state, method=method)
    resumed.load_checkpoint(tmp_path / "half.safetensors")
    other = keras.optimizers.Adam(1e-2)
    other.build(again.trainable_variables)
    for variable, value in zip(other.variables, moments, strict=True):
        variable.assign(value)
    epochs(resumed, tf.function(step_of(resumed, again, other)), range(1, 4))
    resumed.after_optimizer_step()
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


@pytest.mark.slow
def test_mixed_precision():
    try:
        ctrl, model = compressed(policy="mixed_float16")
        model.compile(keras.optimizers.Adam(1e-2), LOSS)
        assert type(model.optimizer).__name__ == "LossScaleOptimizer"
        x, y = (np.concatenate([batch(number)[i] for number in range(8)]) for i in (0, 1))
        callbacks = create_compression_callbacks(ctrl, log_text=False)
        counts = [mask.sum() for _, mask in layers(ctrl)]
        model.fit(x, y, batch_size=32, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
        for (parameter, mask), count in zip(layers(ctrl), counts, strict=True):
            assert mask.sum() == count and not parameter.numpy()[mask == 0].any()
            assert len(states(ctrl, parameter)) == 2
    finally:
        keras.mixed_precision.set_global_policy("float32")
