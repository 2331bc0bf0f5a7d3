"""Recurrent layers: what is computed with, what gradients reach, what is saved; in both directions, stacked, masked, by steps."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.tools import demo
from tests import recurrent_reference as reference
from tests.keras_training import compile_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

INT8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 8}}}
SPARSE = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}
RIGL = {"algorithm": "dynamic_sparse_training", "params": {"method": "rigl", "sparsity_target": 0.6, "update_interval": 10}}
KINDS = {"lstm": L.LSTM, "gru": L.GRU, "rnn": L.SimpleRNN}


def data(seed=0, batch=4):
    return np.random.default_rng(seed).normal(size=(batch, 6, 5)).astype(np.float32)


def made(layer, seed=0, inputs=None):
    keras.utils.set_random_seed(seed)
    x = keras.Input((6, 5)) if inputs is None else inputs
    y = layer(x)
    return keras.Model(x, L.Dense(3, name="fc")(y[0] if isinstance(y, list | tuple) else y))


def compressed(model, *compression, state=None, x=None):
    config = NNCFConfig.from_dict({"compression": list(compression)})
    batches = tf.data.Dataset.from_tensor_slices(data() if x is None else x).map(lambda x: (x, 0)).batch(4)
    return create_compressed_model(model, register_default_init_args(config, batches, 4), state)


def numpy_weights(ctrl, layer):
    """What the layer computes with, by name: every edit applied in numpy."""
    found = {name: np.array(getattr(layer.cell, name)) for name in ("kernel", "recurrent_kernel", "bias")}
    for edit in ctrl.plan:
        if edit.site.slot in found and edit.site.node == layer.name:
            found[edit.site.slot] = edit.apply(xp, found[edit.site.slot], ctrl.variable_values(edit), False)
    return {name: array.astype(np.float64) for name, array in found.items()}


def at_input(ctrl, x):
    for edit in ctrl.plan:
        if str(edit.site) == "/nncf_model_input_0|output":
            x = edit.apply(xp, x, ctrl.variable_values(edit), False)
    return x.astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_computes_with_the_transformed_weights(kind):
    layer = KINDS[kind](8, bias_initializer="random_normal", return_sequences=True)
    model = made(layer)
    ctrl, model = compressed(model, SPARSE, INT8)
    w = numpy_weights(ctrl, layer)
    assert 0.3 < np.mean(w["recurrent_kernel"] == 0) < 0.7
    x = at_input(ctrl, data(1))
    if kind == "gru":
        expected = reference.gru(x, w["kernel"], w["recurrent_kernel"], w["bias"][0], w["bias"][1], update_first=True)
    else:
        expected = getattr(reference, kind)(x, w["kernel"], w["recurrent_kernel"], w["bias"])
    for output in [e for e in ctrl.plan if str(e.site) == f"{layer.name}|output"]:
        expected = output.apply(xp, expected.astype(np.float32), ctrl.variable_values(output), False)
    fc = next(e for e in ctrl.plan if e.site.node == "fc" and e.site.is_parameter and e.transform.kind == "quantizer")
    kernel = np.array(model.get_layer("fc").kernel)
    for edit in ctrl.plan.at(fc.site):
        kernel = edit.apply(xp, kernel, ctrl.variable_values(edit), False)
    np.testing.assert_allclose(model(data(1), training=False), expected @ kernel, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_both_matrices_through_the_mask(kind):
    model = made(KINDS[kind](8))
    ctrl, model = compressed(model, SPARSE)
    plain = ctrl.strip()

    @tf.function
    def gradients(model, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x, training=True)))
        cell = model.layers[1].cell
        return tape.gradient(loss, [cell.kernel.value, cell.recurrent_kernel.value])

    ours, theirs = gradients(model, data(1)), gradients(plain, data(1))
    masks = [ctrl.variable_values(edit)["mask"] for edit in ctrl.plan if edit.site.node == model.layers[1].name]
    for own, other, mask in zip(ours, theirs, masks, strict=True):
        np.testing.assert_allclose(own, np.array(other) * mask, atol=1e-5)
        assert np.abs(own).sum() > 0


LAYERS = {
    "bidirectional": lambda: L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode="sum"),
    "backwards": lambda: L.GRU(4, go_backwards=True, return_sequences=True),
    "unrolled": lambda: L.LSTM(4, unroll=True),
    "states": lambda: L.LSTM(4, return_sequences=True, return_state=True),
    "stacked": lambda: L.RNN([L.LSTMCell(4), L.GRUCell(3)], return_sequences=True),
    "stateful": lambda: L.SimpleRNN(4, stateful=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_stripped_layer_computes_what_the_sparse_one_did(name):
    stateful = name == "stateful"
    model = made(LAYERS[name](), inputs=keras.Input(batch_shape=(4, 6, 5)) if stateful else None)
    ctrl, model = compressed(model, SPARSE)
    assert len(ctrl.plan) == (5 if name in ("bidirectional", "stacked") else 3)
    plain = ctrl.strip()
    if stateful:
        first = np.array(model(data(1), training=False))
        assert np.abs(np.array(model(data(1), training=False)) - first).max() > 1e-4
        model.layers[1].reset_state(), plain.layers[1].reset_state()
    np.testing.assert_allclose(model(data(1), training=False), plain(data(1), training=False), atol=1e-6)


def test_masked_steps_are_skipped_with_quantizers_in_between():
    def words_read(length):
        x = keras.Input((length,), dtype="int32")
        keras.utils.set_random_seed(0)
        return keras.Model(x, L.Dense(3)(L.LSTM(4)(L.Embedding(11, 5, mask_zero=True)(x))))

    words = np.array([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6], [7, 0, 0, 0, 0, 0], [8, 9, 1, 2, 0, 0]], np.int32)
    _, model = compressed(words_read(6), INT8, x=words)
    longer = np.pad(words, ((0, 0), (0, 3)))
    _, other = compressed(words_read(9), INT8, x=longer)
    np.testing.assert_allclose(model(words, training=False), other(longer, training=False), atol=1e-6)


def test_what_no_algorithm_takes_is_counted_and_named():
    x = keras.Input((6, 5))
    wide = L.Reshape((6, 5, 1))(x)
    model = keras.Model(x, L.Dense(3)(L.Flatten()(L.ConvLSTM1D(2, 3)(L.Reshape((2, 3, 5))(wide)))))
    ctrl, model = compressed(model, SPARSE)
    left = ctrl.statistics().untouched
    owned = sum(int(np.prod(v.shape)) for v in model.layers[3].trainable_variables if len(v.shape) > 1)
    assert left is not None and left.weights == owned and left.share == owned / (owned + 2 * 3)
    names = [name for name, reason in ctrl.plan.skipped if "kernel" in name]
    assert len(names) == 2 and all(name in str(ctrl.statistics()) for name in names)


FILES = {
    "lstm": (lambda: L.Bidirectional(L.LSTM(4, return_sequences=True)), {"LSTM", "DynamicQuantizeLSTM"}),
    "gru": (lambda: L.GRU(4), {"Loop"}),
    "masked": (lambda: L.LSTM(4), {"Loop", "LSTM", "DynamicQuantizeLSTM"}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_file_computes_what_the_model_does(name, tmp_path):
    layer, operators = FILES[name]
    if name == "masked":
        keras.utils.set_random_seed(0)
        x = keras.Input((6, 5))
        model = keras.Model(x, L.Dense(3, name="fc")(layer()(L.Masking()(x))))
    else:
        model = made(layer())
    ctrl, model = compressed(model, SPARSE, INT8)
    report = ctrl.export_model(tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    found = {node.op_type for node in file.graph.node} & {"LSTM", "DynamicQuantizeLSTM", "GRU", "Loop"}
    assert found and found <= operators
    # the integer operator rounds what it reads to 8 bits of its own
    assert report.exact and report.lsb <= (2 if "DynamicQuantizeLSTM" in found else 0.1)


class Steps(keras.Model):
    """A user's own loop over a cell."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.cell, self.fc = L.GRUCell(8), L.Dense(3)

    def call(self, x):
        state = keras.ops.zeros((4, 8))
        for t in range(6):
            _, state = self.cell(x[:, t], state)
        return self.fc(state[0] if isinstance(state, list) else state)


def test_a_cell_in_a_loop_has_its_weights_transformed():
    keras.utils.set_random_seed(0)
    model = Steps()
    model(data())
    ctrl, model = compressed(model, SPARSE)
    assert [e.site.slot for e in ctrl.plan] == ["kernel", "recurrent_kernel", "weight"]
    plain = ctrl.strip()
    assert np.mean(np.array(plain.cell.recurrent_kernel) == 0) > 0.2
    np.testing.assert_allclose(model(data(1), training=False), plain(data(1), training=False), atol=1e-6)


@pytest.mark.slow
def test_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    def trained(model, *seeds):
        compile_model(model, keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        for seed in seeds:
            model.train_on_batch(data(seed), np.zeros((4, 3), np.float32))
        return model.get_weights()

    ctrl, model = compressed(made(L.Bidirectional(L.GRU(4))), SPARSE, INT8)
    trained(model, 1, 2)
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(other(data(3), training=False), model(data(3), training=False))
    for ours, theirs in zip(trained(model, 5, 6), trained(other, 5, 6), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def digits():
    read = demo.load_digits()
    return read.train_images, read.train_labels, read.test_images, read.test_labels


def rows():
    """A digit as a sequence of its 8 rows."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8)), L.LSTM(32, unroll=True), L.Dense(10)])


def fit(model, digits, epochs, rate, ctrl=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_model(model, keras.optimizers.Adam(rate), loss, jit_compile=False)
    callbacks = [] if ctrl is None else create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    model.fit(*digits[:2], batch_size=32, epochs=epochs, callbacks=callbacks, verbose=0)
    return float((np.argmax(model.predict(digits[2], verbose=0), 1) == digits[3]).mean())


@pytest.fixture(scope="module")
def trained(digits):
    model = rows()
    accuracy = fit(model, digits, 12, 1e-2)
    return model.get_weights(), accuracy


@pytest.mark.parametrize("compression", [INT8, RIGL], ids=["int8", "rigl"])
def test_digits_read_row_by_row_are_still_read(compression, digits, trained):
    weights, accuracy = trained
    assert accuracy > 0.9
    model = rows()
    model.set_weights(weights)
    config = NNCFConfig.from_dict({"compression": compression})
    batches = tf.data.Dataset.from_tensor_slices(digits[:2]).batch(64)
    ctrl, model = create_compressed_model(model, register_default_init_args(config, batches, 64))
    if compression is INT8:
        assert fit(model, digits, 2, 1e-3, ctrl) > accuracy - 0.01
        return
    assert fit(model, digits, 4, 1e-2, ctrl) > accuracy - 0.05
    assert abs(ctrl.statistics().dynamic_sparse_training.sparsity_level_for_layers - 0.6) < 0.01
    assert np.mean(np.array(ctrl.strip().layers[0].cell.recurrent_kernel) == 0) > 0.5
