"""Copies of a model (stripped models, teachers, checkpoints) compute what the model computes, also by what is in no variable."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter
from nncf_ext_tensorflow.copies import copy_of

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:magnitude_sparsity:UserWarning")  # whose schedule does not matter here

RNG = np.random.default_rng(0)
X = (RNG.random((32, 6)) * 255).astype("float32")
NO_SPARSITY = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.0}


def compressed(model, algorithm=None, data=X):
    loader = tf.data.Dataset.from_tensor_slices(data).batch(16)
    config = NNCFConfig.from_dict({"compression": NO_SPARSITY if algorithm is None else algorithm})
    return create_compressed_model(model, register_default_init_args(config, loader, 16))


def behind(layer, inputs=None):
    inputs = keras.Input((6,)) if inputs is None else inputs
    return keras.Model(inputs, L.Dense(3, name="fc")(layer(inputs)))


def normalization(adapted=True, **settings):
    layer = L.Normalization(name="norm", **settings)
    if adapted:
        layer.adapt(X)
    return layer


NORMALIZATIONS = {
    "adapted": lambda: normalization(),
    "axis": lambda: normalization(axis=None),
    "inverted": lambda: normalization(invert=True),
    "given": lambda: normalization(False, mean=[100.0] * 6, variance=[4.0] * 6),
    "nested": lambda: keras.Sequential([keras.Input((6,)), normalization()]),
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_an_adapted_normalization_stays_so_in_copies(name):
    controller, model = compressed(behind(NORMALIZATIONS[name]()))
    expected = model(X).numpy()
    np.testing.assert_allclose(controller.strip()(X), expected, rtol=1e-5)
    np.testing.assert_allclose(controller.strip(do_copy=False)(X), expected, rtol=1e-5)
    np.testing.assert_allclose(KerasAdapter().frozen_copy(model)(X), expected, rtol=1e-5)


def test_a_checkpoint_brings_an_adapted_normalization(tmp_path):
    controller, model = compressed(behind(normalization()))
    controller.save_checkpoint(tmp_path / "a.safetensors")
    other, loaded = compressed(behind(normalization(adapted=False)))
    other.load_checkpoint(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded(X), model(X))


def adapted(layer, data):
    layer.adapt(data)
    return layer


WORDS = np.array([["a", "b"], ["c", "a"]])
STATEFUL = {
    "Discretization": (lambda: adapted(L.Discretization(num_bins=4, output_mode="multi_hot"), X), "float32", X[:4]),
    "IntegerLookup": (lambda: adapted(L.IntegerLookup(output_mode="multi_hot"), [7, 5, 9]), "int64", np.array([[5, 9], [7, 1]])),
    "StringLookup": (lambda: adapted(L.StringLookup(output_mode="multi_hot"), WORDS), "string", WORDS),
    "tf_idf": (lambda: adapted(L.StringLookup(output_mode="tf_idf"), WORDS), "string", WORDS),
    "TextVectorization": (
        lambda: adapted(L.TextVectorization(output_mode="multi_hot"), ["a b", "c"]),
        "string",
        [["c b"], ["x"]],
    ),
    "Hashing": (lambda: L.Hashing(8, salt=3, output_mode="multi_hot"), "string", WORDS),
    "CategoryEncoding": (lambda: L.CategoryEncoding(4, output_mode="multi_hot"), "int64", np.array([[0, 3], [1, 2]])),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_preprocessing_layers_in_the_model_stay_as_they_are(name):
    make, dtype, x = STATEFUL[name]
    x = tf.constant(x)
    controller, model = compressed(behind(make(), keras.Input(x.shape[1:], dtype=dtype)), data=x)
    np.testing.assert_array_equal(controller.strip()(x), model(x))
    model.get_layer("fc").kernel.assign(2 * model.get_layer("fc").kernel)
    np.testing.assert_array_equal(KerasAdapter(lambda: x).frozen_copy(controller.strip(do_copy=False))(x), model(x))


LEARNED = {
    "Discretization": (lambda data: adapted(L.Discretization(num_bins=4, output_mode="multi_hot", name="table"), data), X, X**2),
    "IntegerLookup": (
        lambda data: adapted(L.IntegerLookup(max_tokens=4, output_mode="multi_hot", name="table"), data),
        np.array([[7, 5], [9, 7]]),
        np.array([[5, 1], [2, 2]]),
    ),
    "StringLookup": (
        lambda data: adapted(L.StringLookup(max_tokens=4, output_mode="multi_hot", name="table"), data),
        tf.constant(WORDS),
        tf.constant([["c", "x"], ["y", "y"]]),
    ),
    "tf_idf": (
        lambda data: adapted(L.StringLookup(max_tokens=4, output_mode="tf_idf", name="table"), data),
        tf.constant(WORDS),
        tf.constant([["c", "x"], ["y", "y"]]),
    ),
    "TextVectorization": (
        lambda data: adapted(L.TextVectorization(max_tokens=5, output_mode="multi_hot", name="table"), data),
        tf.constant(["a b", "c a"]),
        tf.constant(["x y", "y z"]),
    ),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_checkpoint_brings_vocabularies_and_bins(name, tmp_path):
    """A model that learned them from other data, and has run compiled, is then the one that was saved."""
    make, x, others = LEARNED[name]

    def built(data):
        inputs = keras.Input(x.shape[1:], dtype="string" if x.dtype == tf.string else x.dtype)
        return compressed(keras.Model(inputs, L.Dense(3, name="fc")(make(data)(inputs))), data=x)

    controller, model = built(x)
    controller.save_checkpoint(tmp_path / "a.safetensors")
    other, loaded = built(others)
    assert np.abs(loaded.predict(x, verbose=0) - model(x)).max() > 0.01
    other.load_checkpoint(tmp_path / "a.safetensors")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(other.strip()(x), model(x))


def test_a_checkpoint_with_a_vocabulary_of_another_layer_changes_nothing(tmp_path):
    controller, _ = compressed(behind(L.Discretization([50.0, 100.0], output_mode="multi_hot", name="bins")))
    controller.save_checkpoint(tmp_path / "a.safetensors")
    other, model = compressed(
        behind(L.CategoryEncoding(3, output_mode="multi_hot"), keras.Input((6,), dtype="int64")), data=X % 3
    )
    before = model.get_weights()
    with pytest.raises(
        CheckpointError, match="a.safetensors: it has a vocabulary or bins of bins, which this model does not have"
    ):
        other.load_checkpoint(tmp_path / "a.safetensors")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="the vocabulary or bins of bins: expected a list of int or float"):
        KerasAdapter().load_tensors(controller.model, {}, {"bins": ["a"]})


class Block(L.Layer):
    """As most are written: no get_config, and no `**kwargs`."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = L.Dense(width, activation="relu"), L.Dense(6)

    def call(self, x):
        return self.b(self.a(x)) + x


class Around(L.Layer):
    """Cannot be built from a config: it is given a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


class Forgetful(L.Layer):
    """Computes with something that its config does not say."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


PRUNING = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"all_weights": True, "prune_first_conv": True}}


def test_layers_without_get_config_are_built_again(tmp_path):
    for algorithm in ({"algorithm": "quantization"}, PRUNING):
        controller, model = compressed(behind(Block(16)), algorithm)
        stripped = controller.strip()
        assert stripped.get_layer(model.layers[1].name).a.units == (8 if algorithm is PRUNING else 16)
        if algorithm is PRUNING:
            np.testing.assert_allclose(stripped(X), model(X), rtol=1e-4, atol=1e-3)
        assert controller.export_model(tmp_path / "a.onnx").lsb < 1


def test_a_lambda_is_copied_with_the_names_it_reads():
    shift = 2.0
    model = behind(L.Lambda(lambda x: keras.ops.abs(x) + shift))
    np.testing.assert_array_equal(copy_of(model)(X), model(X))
    assert model.layers[1].function.__name__ == "<lambda>"


def test_what_cannot_be_copied_is_refused_where_a_copy_will_be_needed(tmp_path):
    with pytest.raises(ValueError, match=r"'around\w*' of class Around has no get_config.*do without a copy") as error:
        compressed(behind(Around(L.Dense(16))), PRUNING)
    assert "\n" not in str(error.value)
    controller, model = compressed(behind(Around(L.Dense(16))), {"algorithm": "quantization"})
    assert controller.export_model(tmp_path / "a.onnx").lsb < 1
    with pytest.raises(ValueError, match="strip with do_copy=False"):
        controller.strip()
    assert controller.strip(do_copy=False) is model


def test_a_copy_that_computes_something_else_is_refused():
    layer = Forgetful()
    layer.factor = 3.0
    controller, _ = compressed(behind(layer))
    with pytest.raises(ValueError, match="differs by 0.6.* of the largest value"):
        controller.strip()


class FourRows(L.Layer):
    """Takes 24 numbers, which its input does not say."""

    factor = 1.0

    def call(self, x):
        return keras.ops.reshape(x, (-1, 4, 6)) * self.factor


OTHERS = {
    "a length": lambda: (behind(FourRows(), keras.Input((None,))), RNG.random((4, 24), np.float32)),
    "strings": lambda: (behind(STATEFUL["StringLookup"][0](), keras.Input((2,), dtype="string")), tf.constant(WORDS)),
}


DISTILLED_AND_PRUNED = [PRUNING, {"algorithm": "knowledge_distillation", "type": "mse"}]


@pytest.mark.parametrize("name", OTHERS)
def test_registered_data_are_taken_where_made_up_inputs_do_not_run(name, tmp_path):
    """For a teacher, for what a copy computes, and for what a model without some channels computes."""
    plain, x = OTHERS[name]()
    hidden = L.Dense(16, activation="relu")
    model = keras.Model(plain.input, L.Dense(3, name="out")(hidden(plain.output)))
    controller, model = compressed(model, DISTILLED_AND_PRUNED, data=x)
    smaller = controller.strip()
    assert smaller.get_layer(hidden.name).units < 16
    np.testing.assert_allclose(smaller(x), model(x), rtol=1e-4, atol=1e-6)
    if name == "strings":
        with pytest.raises(
            ValueError, match="string_lookup.*: found a StringLookup in the model, whose vocabulary.*data pipeline"
        ):
            controller.export_model(tmp_path / "a.onnx")
    else:
        assert controller.export_model(tmp_path / "a.onnx").lsb < 1


def test_what_a_layer_forgets_is_found_on_registered_data():
    layer = FourRows()
    model, x = behind(layer, keras.Input((None,))), RNG.random((4, 24), np.float32)
    layer.factor = 3.0
    controller, _ = compressed(model, data=x)
    with pytest.raises(ValueError, match="differs by 0.6.* of the largest value"):
        controller.strip()


def test_without_inputs_that_run_nothing_is_pruned_and_a_copy_is_told():
    model, _ = OTHERS["strings"]()
    with pytest.raises(ValueError, match="runs on none of the inputs.*expected register_default_init_args"):
        create_compressed_model(model, NNCFConfig.from_dict({"compression": PRUNING}))
    model, x = OTHERS["strings"]()
    controller, model = create_compressed_model(model, NNCFConfig.from_dict({"compression": NO_SPARSITY}))
    with pytest.warns(UserWarning, match=f"model {model.name!r}.*a copy of it was not compared with it"):
        stripped = controller.strip()
    np.testing.assert_array_equal(stripped(x), model(x))


def test_random_layers_draw_on_as_before():
    model = keras.Sequential([keras.Input((6,)), L.GaussianNoise(1.0, seed=1), L.Dropout(0.5)])
    model(X, training=True)
    copy = copy_of(model)
    np.testing.assert_array_equal(copy(X, training=True), model(X, training=True))


def test_a_saved_model_computes_what_the_compressed_model_does(tmp_path):
    controller, model = compressed(behind(normalization()), {"algorithm": "quantization"})
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(served.serve(X), model(X), atol=1e-6)
