"""Transforms placed in Keras models: where they act, training, saving, stripping."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any, ClassVar, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow.adapter import KerasAdapter
from nncf_ext_tensorflow.variables import HOLDER

from nncf_ext.algorithms.magnitude_sparsity import BinaryMask
from nncf_ext.edits import QUANTIZE, Edit, Plan, Transform, Var
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers import NNCFQuantizer
from tests.keras_training import compile_model

ADAPTER = KerasAdapter()
# numpy 2.4 warns where Keras 3.15 writes variables to a file
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


class Scale(Transform):
    """x * factor: a value that shows in the output, with a variable that learns."""

    kind: Literal["scale"] = "scale"
    stage: ClassVar[int] = QUANTIZE

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x * variables["factor"]


def scale(*sites: str, by: float = 1.0, trainable: bool = True) -> tuple[Edit, dict[str, Var]]:
    edit = Edit(tuple(Site.parse(site) for site in sites), Scale(), "test")
    return edit, {"factor": Var(np.asarray(by, np.float32), trainable)}


def apply(model, *edits, example=None):
    traced = ADAPTER.trace(model, example)
    return ADAPTER.apply(model, traced, Plan(tuple(e for e, _ in edits)), {e.key: v for e, v in edits})


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy(x):
    return ADAPTER.to_numpy(x)


def cnn(**keywords):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="conv1", **keywords)(inputs)
    x = L.BatchNormalization(name="bn", **keywords)(x)
    x = keras.ops.relu6(x + L.SeparableConv2D(4, 3, padding="same", name="sep", **keywords)(x))
    x = L.Flatten(name="flat")(x)
    return keras.Model(inputs, L.Dense(3, name="fc", **keywords)(x))


class Mixed(keras.Model):
    """A layer that is called twice, keras and tensorflow operations, a weight of its own, BatchNorm and Dropout."""

    def __init__(self, width=4, **keywords):
        super().__init__(**keywords)
        self.width = width
        self.dense = L.Dense(width)
        self.norm = L.BatchNormalization()
        self.dropout = L.Dropout(0.5)

    def build(self, shape):
        self.dense.build((None, self.width))
        self.norm.build((None, self.width))
        self.w = self.add_weight(shape=(self.width, self.width), name="w", initializer="glorot_uniform")

    def call(self, x, training=None):
        y = self.dropout(self.norm(self.dense(x), training=training), training=training)
        y = keras.ops.relu(y) + self.dense(y)
        if training:
            y = tf.abs(y)
        shifted = y + self.w[0]  # a variable that passes through an eager operation
        return tf.matmul(keras.ops.multiply(shifted, 0.5), self.w)

    def get_config(self):
        return {"width": self.width}


def transformer():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 16))
    x = L.MultiHeadAttention(2, 8, name="mha")(inputs, inputs)
    x = L.LayerNormalization(name="norm")(L.Add(name="residual")([inputs, x]))
    return keras.Model(inputs, L.Dense(2, name="fc")(x))


def test_identity_transforms_at_every_site_change_nothing():
    for model, x in ((cnn(), data(2, 8, 8, 3)), (transformer(), data(2, 6, 16)), (Mixed(), data(5, 4))):
        expected = model(x)
        traced = ADAPTER.trace(model, x)
        sites = [*traced.places, *(site for site in traced.variables if site.slot in ("weight", "bias"))]
        edits = [scale(str(site)) for site in sites]
        attached = ADAPTER.apply(model, traced, Plan(tuple(e for e, _ in edits)), {e.key: v for e, v in edits})
        np.testing.assert_allclose(model(x), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        for edit, _ in edits:  # every transform is in the way of the data
            variable = attached._holder.of(edit)["factor"]
            assert any(v is variable for v in model.trainable_variables)
        gradients = tape.gradient(loss, [attached._holder.of(edit)["factor"].value for edit, _ in edits])
        missing = [str(edit.site) for (edit, _), g in zip(edits, gradients, strict=True) if g is None]
        assert missing == []


@pytest.mark.parametrize(
    ("site", "reference"),
    [
        ("conv1|weight", lambda conv, x: conv.activation(conv.convolution_op(x, 2 * conv.kernel) + conv.bias)),
        ("conv1|bias", lambda conv, x: conv.activation(conv.convolution_op(x, conv.kernel) + 2 * conv.bias)),
        ("conv1|input:0", lambda conv, x: conv(2 * x)),
        ("/nncf_model_input_0|output", lambda conv, x: conv(2 * x)),
        ("conv1|output", lambda conv, x: conv.activation(2 * (conv.convolution_op(x, conv.kernel) + conv.bias))),
        ("conv1/gelu|input:0", lambda conv, x: conv.activation(2 * (conv.convolution_op(x, conv.kernel) + conv.bias))),
        ("conv1/gelu|output", lambda conv, x: 2 * conv(x)),
        ("/nncf_model_output_0|input:0", lambda conv, x: 2 * conv(x)),
    ],
)
def test_sites_of_a_layer(site, reference):
    conv = L.Conv2D(4, 3, activation="gelu", name="conv1", bias_initializer="uniform")
    model = keras.Sequential([keras.Input((8, 8, 3)), conv])
    x = data(2, 8, 8, 3)
    expected = reference(conv, x)
    apply(model, scale(site, by=2))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_sites_of_separable_convolution_attention_and_operations():
    def sees(model, x, site):
        before = numpy(model(x))
        attached = apply(model, scale(site, by=1.5))
        after = numpy(model(x))
        attached.strip()
        np.testing.assert_allclose(model(x), before, rtol=1e-5, atol=1e-6)
        return after

    x = data(2, 8, 8, 3)
    model = cnn()
    at_depthwise, at_pointwise = sees(model, x, "sep/depthwise|output"), sees(model, x, "sep|input:0")
    np.testing.assert_allclose(at_depthwise, at_pointwise, rtol=1e-6)
    x = data(2, 6, 16)
    model = transformer()
    for a, b in (
        ("mha/query|output", "mha/scale|input:0"),
        ("mha/scores|input:0", "mha/scores|input:1"),
        ("mha/context|input:0", "mha/context|input:1"),
        ("mha/context|output", "mha/attention_output|input:0"),
    ):
        one = sees(model, x, a)
        np.testing.assert_allclose(one, sees(model, x, b), rtol=1e-4, atol=1e-5)
        assert not np.allclose(one, numpy(model(x)))


def test_each_call_of_a_shared_layer_is_a_site():
    dense = L.Dense(4, name="dense", use_bias=False)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(dense(inputs) + 1.0))
    x = data(3, 4)
    expected = dense(2 * (dense(x) + 1.0))
    apply(model, scale("dense^1|input:0", by=2))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5)


def test_one_edit_at_two_sites_shares_its_variable():
    model = cnn()
    attached = apply(model, scale("conv1|input:0", "fc|input:0", by=3))
    (edit,) = attached.plan
    assert len(model.nncf_ext.variables) == 1
    assert attached.variables(edit)["factor"] == 3
    attached.assign(edit, "factor", 1.0)
    x = data(2, 8, 8, 3)
    np.testing.assert_allclose(model(x), cnn()(x), rtol=1e-5, atol=1e-6)


def test_a_parameter_that_two_nodes_share_is_transformed_once():
    dense = L.Dense(4, name="dense", use_bias=False)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(dense(inputs)))
    x = data(3, 4)
    expected = numpy(4 * model(x))
    attached = apply(model, scale("dense|weight", "dense^1|weight", by=2))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    attached.strip()
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)


def edits_of_all_kinds(model, example=None):
    traced = ADAPTER.trace(model, example)
    edits = []
    for node in traced.graph.nodes:
        weight = node.parameter("weight")
        if weight is not None and node.op in ("Conv", "Gemm", "MatMul"):
            site = Site(node.name, "weight")
            edits.append((Edit((site,), BinaryMask(), "magnitude_sparsity"), weight.shape))
            axis = weight.channel_axis
            transform = NNCFQuantizer(bits=8, symmetric=True, signed=True, narrow=True, channel_axis=axis)
            edits.append((Edit((site,), transform, "quantization"), weight.shape))
            activation = Site(node.name, "input:0")
            transform = NNCFQuantizer(bits=8, symmetric=False, signed=False)
            edits.append((Edit((activation,), transform, "quantization"), traced.graph.shape_of(activation)))
    values = {edit.key: edit.transform.calibrate(shape, None)[1] for edit, shape in edits}
    return traced, Plan(tuple(edit for edit, _ in edits)), values


def quantized(model, example=None):
    return ADAPTER.apply(model, *edits_of_all_kinds(model, example))


def mixed():
    keras.utils.set_random_seed(0)
    return Mixed()


def sequential():
    layers = [L.Dense(3, activation="relu", name="first"), L.Dense(2, name="second")]
    return keras.Sequential([keras.Input((4,)), *layers])


MODELS = {"functional": (cnn, (8, 8, 3)), "subclassed": (mixed, (4,)), "transformer": (transformer, (6, 16))}


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        pytest.param(mode, name, marks=pytest.mark.slow if mode == "jit" and name != "functional" else ())
        for mode in ("graph", "eager", "jit")
        for name in MODELS
    ],
)
def test_fit_trains_weights_and_ranges(name, mode):
    build, shape = MODELS[name]
    model = build()
    x = data(16, *shape)
    attached = quantized(model, x[:2])
    compile_model(model, keras.optimizers.SGD(0.03), "mse", run_eagerly=mode == "eager", jit_compile=mode == "jit")
    before = [numpy(v) for v in model.trainable_variables]
    target = np.zeros(model(x).shape, np.float32)
    history = model.fit(x, target, batch_size=8, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    changed = [not np.array_equal(old, numpy(new)) for old, new in zip(before, model.trainable_variables, strict=True)]
    assert np.mean(changed) > 0.8
    assert any(v.path.startswith(HOLDER) for v, c in zip(model.trainable_variables, changed, strict=True) if c)
    masks = [attached.variables(e)["mask"] for e in attached.plan if e.transform.kind == "mask"]
    assert all((numpy(mask) == 1).all() for mask in masks)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), rtol=1e-3, atol=1e-2)


def test_own_loop_with_tf_function():
    model = Mixed()
    x = data(8, 4)
    quantized(model, x)
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))
        return loss

    losses = [float(step(x)) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_batch_norm_and_dropout_behave_in_a_retraced_model():
    model = Mixed()
    x = data(64, 4)
    apply(model, scale("relu_0|output"), example=x)
    mean = numpy(model.norm.moving_mean)
    model(x, training=False)
    np.testing.assert_array_equal(model.norm.moving_mean, mean)
    a, b = model(x, training=True), model(x, training=True)
    assert not np.array_equal(a, b)  # dropout draws anew
    assert not np.array_equal(numpy(model.norm.moving_mean), mean)
    np.testing.assert_array_equal(model(x), model(x))


def test_compressing_a_compiled_and_trained_model():
    model = cnn()
    model.compile("adam", "mse")
    x, y = data(8, 8, 8, 3), data(8, 3)
    model.fit(x, y, verbose=0)
    attached = apply(model, scale("fc|output", by=0.0, trainable=False), scale("conv1|weight"))
    model.fit(x, y, verbose=0)
    assert (model.predict(x, verbose=0) == 0).all()
    (off, _) = attached.plan
    attached.set_enabled(off, False)
    assert (model.predict(x, verbose=0) != 0).any()
    attached.set_enabled(off, True)
    assert (model.predict(x, verbose=0) == 0).all()
    attached.strip()
    model.fit(x, y, verbose=0)


def test_switching_in_the_middle_of_fit():
    model = cnn()
    attached = apply(model, scale("fc|output", by=0.0, trainable=False))
    (edit,) = attached.plan
    model.compile("sgd", "mse")
    x, y = data(8, 8, 8, 3), np.ones((8, 3), np.float32)

    class Switch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            attached.set_enabled(edit, epoch == 0)

    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[Switch()]).history["loss"]
    assert history[0] == pytest.approx(1.0)  # the output is zero
    assert history[1] != pytest.approx(1.0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    model = cnn(dtype=policy)
    x = data(8, 8, 8, 3)
    seen = []

    class Remember(Scale):
        def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
            seen.append(keras.backend.standardize_dtype(x.dtype))
            return x * variables["factor"]

    edits = [Edit((Site.parse(site),), Remember(), "test") for site in ("conv1|weight", "conv1|output", "fc|input:0")]
    values = {edit.key: {"factor": Var(np.ones((), np.float32), True)} for edit in edits}
    expected = model(x)
    ADAPTER.apply(model, ADAPTER.trace(model), Plan(tuple(edits)), values)
    assert model(x).dtype == expected.dtype
    np.testing.assert_allclose(model(x), expected, rtol=1e-2, atol=1e-2)
    assert set(seen) == {"float32"}
    assert all(v.dtype == "float32" for v in model.nncf_ext.variables)
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(x, data(8, 3), verbose=0).history["loss"][0])


@pytest.mark.parametrize("name", ["functional", "subclassed", pytest.param("transformer", marks=pytest.mark.slow), "sequential"])
def test_save_and_load(name, tmp_path):
    build, shape = MODELS.get(name, (sequential, (4,)))
    model = build()
    x = data(4, *shape)
    attached = quantized(model, x)
    compile_model(model, "adam", "mse")
    model.fit(x, np.zeros(model(x).shape, np.float32), verbose=0)
    expected = model(x)
    layers = len(model.layers)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Mixed": Mixed})
    assert type(loaded).__name__ == type(model).__name__
    np.testing.assert_array_equal(loaded(x), expected)
    assert len({v.path for v in loaded.nncf_ext.variables}) == len(model.nncf_ext.variables)
    assert len(loaded.layers) == layers
    loaded.fit(x, np.zeros(expected.shape, np.float32), verbose=0)

    model.save_weights(tmp_path / "w.weights.h5")
    again = build()
    quantized(again, x)
    again.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(again(x), expected)

    attached.strip()
    assert not hasattr(model, HOLDER)
    model.save(tmp_path / "plain.keras")
    plain = keras.models.load_model(tmp_path / "plain.keras", custom_objects={"Mixed": Mixed})
    np.testing.assert_allclose(plain(x), model(x), rtol=1e-6)
    fresh = build()
    fresh(x)
    assert len(plain.weights) == len(fresh.weights)


def test_plain_weights_load_into_a_compressed_model_and_back(tmp_path):
    plain = cnn()
    x = data(2, 8, 8, 3)
    plain.set_weights([w + 0.01 for w in plain.get_weights()])
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = cnn()
    apply(model, scale("conv1|weight"), scale("fc|output"))
    model.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_allclose(model(x), plain(x), rtol=1e-6)
    model.save_weights(tmp_path / "compressed.weights.h5")
    other = cnn()
    other.load_weights(tmp_path / "compressed.weights.h5")
    np.testing.assert_allclose(other(x), plain(x), rtol=1e-6)


def test_weights_of_another_plan_are_refused(tmp_path):
    model = cnn()
    apply(model, scale("conv1|weight"))
    model.save_weights(tmp_path / "w.weights.h5")
    other = cnn()
    apply(other, scale("fc|weight"))
    with pytest.raises(ValueError, match="another plan"):
        other.load_weights(tmp_path / "w.weights.h5")


def test_strip_bakes_weights_and_drops_activation_transforms():
    model = cnn()
    kernel, names = numpy(model.get_layer("conv1").kernel), [v.path for v in model.variables]
    attached = apply(model, scale("conv1|weight", by=2), scale("fc|output", by=5))
    copy = ADAPTER.strip(model, do_copy=True)
    np.testing.assert_allclose(copy.get_layer("conv1").kernel, 2 * kernel)
    np.testing.assert_allclose(model.get_layer("conv1").kernel, kernel)
    assert [v.path for v in copy.variables] == names
    assert ADAPTER.strip(model, do_copy=False) is model
    np.testing.assert_allclose(model.get_layer("conv1").kernel, 2 * kernel)
    assert [v.path for v in model.variables] == names
    assert type(model) is keras.Model or type(model).__module__.startswith("keras.")
    assert type(model.get_layer("conv1")) is L.Conv2D
    x = data(2, 8, 8, 3)
    np.testing.assert_array_equal(model(x), copy(x))
    assert attached.model is model


def test_errors_leave_the_model_as_it_was():
    model = cnn()
    x = data(2, 8, 8, 3)
    expected, classes, names = model(x), [type(layer) for layer in model.layers], [v.path for v in model.variables]
    good, bad = scale("conv1|weight", by=3), scale("nowhere|output")
    with pytest.raises(ValueError, match="nowhere"):
        apply(model, good, bad)
    with pytest.raises(ValueError, match="no such parameter"):
        apply(model, good, scale("conv1|nothing"))
    assert [type(layer) for layer in model.layers] == classes
    assert [v.path for v in model.variables] == names
    np.testing.assert_array_equal(model(x), expected)
    apply(model, good)
    with pytest.raises(ValueError, match="compressed already"):
        apply(model, good)


def test_inference_shows_every_activation_and_leaves_nothing():
    for model, x in ((cnn(), data(4, 8, 8, 3)), (Mixed(), data(4, 4)), (transformer(), data(4, 6, 16))):
        traced = ADAPTER.trace(model, x)
        classes = [type(layer) for layer in model._flatten_layers()]
        infer = ADAPTER.inference(model, traced, dict.fromkeys(traced.places, numpy))
        seen = [infer(batch)[1] for batch in (x, x + 1)]
        for site in traced.places:
            assert [each[site].shape[1:] for each in seen] == [traced.graph.shape_of(site)[1:]] * 2, site
        np.testing.assert_array_equal(seen[1][Site("/nncf_model_input_0", "output")], x + 1)
        np.testing.assert_allclose(seen[0][Site("/nncf_model_output_0", "input:0")], model(x), rtol=1e-5, atol=1e-5)
        assert [type(layer) for layer in model._flatten_layers()] == classes


def test_batch_norm_adaptation_is_the_mean_over_batches():
    model = keras.Sequential([keras.Input((4,)), L.BatchNormalization(name="bn", momentum=0.9), L.Dropout(0.5)])
    batches = [data(16, 4, seed=s) + s for s in range(3)]
    bn = model.get_layer("bn")
    ADAPTER.adapt_batchnorm(model, batches)
    np.testing.assert_allclose(bn.moving_mean, np.mean([b.mean(0) for b in batches], 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bn.moving_variance, np.mean([b.var(0) for b in batches], 0), rtol=1e-4)
    assert (bn.momentum, type(bn)) == (0.9, L.BatchNormalization)
    before = bn.get_weights()
    ADAPTER.adapt_batchnorm(model, [])
    bn.trainable = False
    ADAPTER.adapt_batchnorm(model, batches[:1])
    np.testing.assert_array_equal(bn.get_weights()[2], before[2])


def test_frozen_copy_is_independent():
    model = cnn()
    x = data(2, 8, 8, 3)
    copy = ADAPTER.frozen_copy(model)
    expected = model(x)
    np.testing.assert_array_equal(copy(x), expected)
    assert copy.trainable_variables == []
    model.set_weights([w * 0 for w in model.get_weights()])
    np.testing.assert_array_equal(copy(x), expected)
    mixed = Mixed()
    mixed(data(2, 4))
    np.testing.assert_array_equal(ADAPTER.frozen_copy(mixed, data(2, 4))(data(2, 4)), mixed(data(2, 4)))

    class WithoutConfig(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, x):
            return self.layer(x)

    other = WithoutConfig(L.Dense(2))
    other(data(2, 4))
    other.get_config = None
    with pytest.raises(ValueError, match="cannot be copied.*pass a teacher"):
        ADAPTER.frozen_copy(other)


def test_a_copy_tells_the_layer_add_from_the_operation_add():
    inputs = keras.Input((4,))
    x = L.Dense(4)(inputs) + 3.0
    model = keras.Model(inputs, L.Add()([x, inputs]))
    x = data(2, 4)
    np.testing.assert_array_equal(ADAPTER.frozen_copy(model)(x), model(x))


def test_tap_sees_training_forwards_differentiably():
    model = cnn()
    x, y = data(8, 8, 8, 3), data(8, 3)
    attached = apply(model, scale("fc|output", by=2))
    (edit,) = attached.plan
    teacher = ADAPTER.frozen_copy(cnn())
    outputs = []

    def after_forward(inputs, output, tensors):
        answer, _ = ADAPTER.inference(teacher)(inputs)
        passed.append(tensors)
        outputs.append(tf.reduce_mean((output - answer) ** 2))

    passed = []
    ADAPTER.tap(model, attached.traced, [Site("fc", "output"), Site("sep", "output")], after_forward)
    model(x)
    assert outputs == []
    y = model(x, training=True)
    np.testing.assert_array_equal(passed[0][Site("fc", "output")], y)
    assert passed[0][Site("sep", "output")].shape == (8, 8, 8, 4)
    ADAPTER.tap(model, attached.traced, [], after_forward)
    model(x, training=True)
    assert passed[1] == {}
    outputs.clear()
    optimizer = keras.optimizers.SGD(0.05)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            model(x, training=True)
            loss = outputs[-1]
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))
        return loss

    losses = [float(step()) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert attached.variables(edit)["factor"] != 2
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    assert len(outputs) == 2  # one per trace


def test_tensors_are_named_and_restore_bit_for_bit():
    model, other = Mixed(), Mixed()
    x = data(4, 4)
    attached = quantized(model, x)
    quantized(other, x)
    other.set_weights([w + 1 if w.dtype == np.float32 else w for w in other.get_weights()])
    tensors = ADAPTER.tensors(model)
    for edit in attached.plan:
        for name, tensor in attached.tensor_names(edit).items():
            np.testing.assert_array_equal(tensors[tensor], attached.variables(edit)[name])
    assert {"dense/kernel", "norm/moving_mean", "w"} <= set(tensors)
    ADAPTER.load_tensors(other, tensors)
    np.testing.assert_array_equal(other(x), model(x))


def test_a_clone_of_a_compressed_layer_is_plain():
    model = cnn()
    apply(model, scale("conv1|weight", by=3))
    layer = model.get_layer("conv1")
    clone = type(layer).from_config(layer.get_config())
    x = data(2, 8, 8, 3)
    clone(x)
    clone.set_weights(layer.get_weights())
    np.testing.assert_array_equal(clone(x), cnn().get_layer("conv1")(x))


def test_mobilenet():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    x = data(2, 32, 32, 3)
    quantized(model)
    assert model(x).shape == (2, 10)


def test_a_file_that_is_read_without_the_import_says_which_one(tmp_path, monkeypatch):
    model = sequential()
    quantized(model, data(4, 4))
    model.save(tmp_path / "model.keras")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "nncf_ext>CompressedModel")
    with pytest.raises(TypeError, match="Could not locate class 'CompressedSequential'.*'module': 'nncf_ext_tensorflow'"):
        keras.models.load_model(tmp_path / "model.keras")
