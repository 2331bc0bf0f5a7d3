"""Hidden units of recurrent layers: which go, that the model without them computes what the masked one did, where they stay."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import demo
from tests import recurrent_reference as reference
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

PRUNE = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.5,
    "params": {"schedule": "exponential", "pruning_target": 0.5},
}
INT8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 8}}}
KINDS = {"lstm": L.LSTM, "gru": L.GRU, "rnn": L.SimpleRNN}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def data(seed=0):
    return np.random.default_rng(seed).normal(size=(4, 6, 5)).astype("float32")


def compressed(body, *compression, inputs=None):
    """The body with a Dense layer on each of its results; weights of any size, biases too, and masks that are decided on them."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 5)) if inputs is None else inputs
    made = keras.tree.flatten(body(inputs))
    model = keras.Model(inputs, [L.Dense(3, name=f"fc{i}")(y) for i, y in enumerate(made)])
    for variable in model.trainable_variables:
        variable.assign(variable + 0.2 * np.random.normal(size=variable.shape))
    batches = tf.data.Dataset.from_tensor_slices(data()).map(lambda x: (x, 0)).batch(4, drop_remainder=True)
    config = NNCFConfig.from_dict({"compression": list(compression or [PRUNE])})
    ctrl, model = create_compressed_model(model, register_default_init_args(config, batches, 4))
    ctrl.scheduler.epoch_step()
    return ctrl, model


def outputs(model):
    return [np.array(y) for y in keras.tree.flatten(model(data(1), training=False))]


def check(ctrl, model, folder):
    """Returns the stripped model, which computes what the masked one does, from its own config too."""
    expected = outputs(model)
    small = ctrl.strip()
    for found, y in zip(outputs(small), expected, strict=True):
        np.testing.assert_allclose(found, y, atol=1e-6, rtol=1e-5)
    small.save(folder / "small.keras")
    for found, y in zip(outputs(keras.models.load_model(folder / "small.keras")), outputs(small), strict=True):
        np.testing.assert_array_equal(found, y)
    again = keras.Model.from_config(small.get_config())
    assert [v.shape for v in again.weights] == [v.shape for v in small.weights]
    counted = sum(int(np.prod(v.shape)) for v in small.trainable_weights)
    assert ctrl.statistics().filter_pruning.current_params_num == counted
    return small


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_units_go_and_numpy_agrees_on_what_is_left(kind, tmp_path):
    """A unit's size: the norm of its columns in both matrices."""
    layer = KINDS[kind](16, return_sequences=True)
    ctrl, model = compressed(layer)
    w = {name: np.array(getattr(layer.cell, name)) for name in ("kernel", "recurrent_kernel", "bias")}
    columns = np.concatenate([w["kernel"], w["recurrent_kernel"]]).reshape(-1, GATES[kind], 16)
    kept = np.sort(np.argsort(np.sqrt(np.square(columns).sum((0, 1))))[8:])
    rows = (np.arange(GATES[kind])[:, None] * 16 + kept).reshape(-1)
    small = check(ctrl, model, tmp_path)
    left = small.layers[1]
    assert (left.units, left.state_size) == (8, [8, 8] if kind == "lstm" else [8])
    W, R, bias = w["kernel"][:, rows], w["recurrent_kernel"][kept][:, rows], w["bias"][..., rows]
    for name, value in (("kernel", W), ("recurrent_kernel", R), ("bias", bias)):
        np.testing.assert_array_equal(np.array(getattr(left.cell, name)), value)
    if kind == "gru":
        expected = reference.gru(data(1), W, R, *bias, update_first=True)
    else:
        expected = getattr(reference, kind)(data(1), W, R, bias)
    np.testing.assert_allclose(np.array(left(data(1))), expected, atol=1e-6)


def bidirectional(merge_mode, **settings):
    return lambda x: L.Bidirectional(L.GRU(16, **settings), merge_mode=merge_mode)(x)


def stacked(**settings):
    return L.RNN([L.LSTMCell(16), L.GRUCell(24)], **settings)


def encoder_decoder(x):
    _, *states = L.LSTM(16, return_state=True)(x)
    return L.LSTM(16, return_sequences=True)(x, initial_state=states)


def encoder_decoder_of_directions(x):
    _, *states = L.Bidirectional(L.LSTM(16, return_state=True))(x)
    return L.Bidirectional(L.LSTM(16, return_sequences=True))(x, initial_state=states)


def several(x):
    """Units of a Dense, of both directions, and of an LSTM that reads these."""
    return L.LSTM(24)(L.Bidirectional(L.GRU(16, return_sequences=True))(L.Dense(16)(x)))


def two_steps(x):
    cell = L.GRUCell(16)
    return cell(x[:, 1], cell(x[:, 0], L.Dense(16)(x[:, 0]))[1])[0]


FORMS = {  # and sizes of what the last layers read
    "states": (lambda x: L.LSTM(16, return_state=True)(x), [8, 8, 8]),
    "sequence and state": (lambda x: L.GRU(16, return_state=True, return_sequences=True, go_backwards=True)(x), [8, 8]),
    "one bias": (lambda x: L.GRU(16, reset_after=False)(x), [8]),
    "no bias": (lambda x: L.LSTM(16, use_bias=False, unroll=True)(x), [8]),
    "relu": (lambda x: L.SimpleRNN(16, activation="relu")(x), [8]),
    "dropout": (lambda x: L.LSTM(16, dropout=0.2, recurrent_dropout=0.2)(x), [8]),
    "masked steps": (lambda x: L.LSTM(16, return_sequences=True)(L.Masking()(x)), [8]),
    "concat": (bidirectional("concat", return_sequences=True), [16]),
    "sum": (bidirectional("sum"), [8]),
    "ave": (bidirectional("ave"), [8]),
    "mul": (bidirectional("mul", return_sequences=True), [8]),
    "two outputs": (bidirectional(None), [8, 8]),
    "two outputs and states": (bidirectional(None, return_state=True), [8, 8, 8, 8]),
    "states of directions": (lambda x: L.Bidirectional(L.LSTM(16, return_state=True))(x), [16, 8, 8, 8, 8]),
    "a cell": (lambda x: L.RNN(L.LSTMCell(16))(x), [8]),
    "a stack": (lambda x: stacked(return_state=True)(x), [16, 8, 8, 16]),
    "encoder and decoder": (encoder_decoder, [8]),
    "a computed state": (lambda x: L.GRU(16)(x, initial_state=L.Dense(16, activation="tanh")(x[:, 0])), [8]),
    "two steps": (two_steps, [8]),
    "autoencoder": (lambda x: L.LSTM(16, return_sequences=True)(L.RepeatVector(4)(L.LSTM(16)(x))), [8]),
    "layers in a row": (several, [16]),
    "two stacks": (lambda x: L.Bidirectional(stacked())(x), [32]),
    "encoder and decoder of two directions": (encoder_decoder_of_directions, [16]),
    "stack's states": (lambda x: stacked()(x, initial_state=list(stacked(return_state=True)(x)[1:])), [16]),
}
SLOW = ("ave", "mul", "two stacks", "encoder and decoder of two directions", "stack's states")


@pytest.mark.parametrize("form", [pytest.param(form, marks=pytest.mark.slow) if form in SLOW else form for form in FORMS])
def test_states_and_outputs_in_all_forms(form, tmp_path):
    body, sizes = FORMS[form]
    small = check(*compressed(body), tmp_path)
    assert [small.get_layer(f"fc{i}").kernel.shape[0] for i in range(len(sizes))] == sizes


def test_the_last_of_a_functional_model_may_be_the_layer_itself(tmp_path):
    """Its units reach the output and stay; what it reads does not."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 5))
    model = keras.Model(inputs, L.GRU(16)(L.Dense(16, name="first")(inputs)))
    ctrl, model = create_compressed_model(model, NNCFConfig.from_dict({"compression": PRUNE}))
    ctrl.scheduler.epoch_step()
    small = ctrl.strip()
    assert small.get_layer("first").units == 8 and small.layers[-1].units == 16
    np.testing.assert_allclose(outputs(small)[0], outputs(model)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: L.SimpleRNN(16, activation="sigmoid")(x), "does not make zeros of zeros"),
        (lambda x: L.SimpleRNN(16, activation=lambda x: x + 1)(x), "does not make zeros of zeros"),
        (lambda x: L.LSTM(16, stateful=True)(x), "keeps its states from batch to batch"),
        (lambda x: L.GRU(16)(x, initial_state=keras.ops.ones((4, 16))), "fixed number of channels"),
    ],
)
def test_units_stay_where_they_are_no_zeros_without_their_weights(body, reason):
    with pytest.raises(ConfigError, match=f"its channels have to stay: .*{reason}"):
        compressed(body, inputs=keras.Input(batch_shape=(4, 6, 5)))


def test_first_states_that_the_user_gives_stay():
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((6, 5)), keras.Input((16,)), keras.Input((16,))]
    model = keras.Model(inputs, L.Dense(3)(L.LSTM(16)(inputs[0], initial_state=inputs[1:])))
    with pytest.raises(ConfigError, match="begins with a state that has a fixed number of channels"):
        create_compressed_model(model, NNCFConfig.from_dict({"compression": PRUNE}))


@pytest.mark.parametrize(
    "params",
    [
        {"all_weights": True},
        {"filter_importance": "geometric_median"},
        pytest.param({"filter_importance": "L1"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_choices_of_units(params, tmp_path):
    small = check(*compressed(several, {**PRUNE, "params": {**PRUNE["params"], **params}}), tmp_path)
    units = [small.layers[1].units, small.layers[2].forward_layer.units, small.layers[3].units]
    assert sum(units) == 28 if "all_weights" in params else units == [8, 8, 16]
    assert small.layers[2].backward_layer.units == units[1]


def test_flops_by_hand():
    """Six steps of an LSTM of 16 units that reads 5: 2 * 6 * 64 * (5 + 16), and a layer 16 -> 3; then 8 units."""
    found = compressed(L.LSTM(16))[0].statistics().filter_pruning
    assert (found.full_flops, found.current_flops) == (12 * 64 * 21 + 2 * 48, 12 * 32 * 13 + 2 * 24)
    assert (found.full_filters_num, found.current_filters_num) == (19, 11)


@pytest.mark.parametrize(
    "kind", ["lstm", pytest.param("gru", marks=pytest.mark.slow), pytest.param("rnn", marks=pytest.mark.slow)]
)
def test_the_file_is_of_the_smaller_model_in_int8(kind, tmp_path):
    ctrl, model = compressed(lambda x: L.Bidirectional(KINDS[kind](16))(x), PRUNE, INT8)
    assert ctrl.export_model(tmp_path / "model.onnx").lsb < 2
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: data(1)})[0]
    np.testing.assert_allclose(found, outputs(model)[0], atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_digits_read_row_by_row_by_half_of_the_units():
    digits = demo.load_digits()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8)), L.LSTM(32), L.Dense(10)])
    params = {"pruning_target": 0.5, "pruning_steps": 3, "num_init_steps": 2}
    config = NNCFConfig.from_dict({"compression": {"algorithm": "filter_pruning", "params": params}})
    ctrl, model = create_compressed_model(model, config)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_model(model, keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    history = model.fit(
        digits.train_images.reshape(-1, 8, 8), digits.train_labels, 32, 8, verbose=0, callbacks=create_compression_callbacks(ctrl)
    )
    assert np.isfinite(history.history["loss"]).all()
    small = ctrl.strip()
    assert small.layers[0].units == 16
    predicted = np.array(small(digits.test_images.reshape(-1, 8, 8))).argmax(1)
    assert np.mean(predicted == digits.test_labels) > 0.9
