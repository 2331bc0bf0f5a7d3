"""Channels that leave a Keras model: what it then computes, whether it trains, and what a file of it holds."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.edits import Removal
from nncf_ext.graph import Site

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
ADAPTER = KerasAdapter()


def images(size=8, channels=3):
    return np.random.default_rng(0).standard_normal((2, size, size, channels)).astype("float32")


def tokens(length=5, width=8):
    return np.random.default_rng(0).standard_normal((2, length, width)).astype("float32")


def randomize(model):
    """Values that no test passes by accident: biases and statistics that are not 0 and 1. Kernels keep theirs."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name in ("bias", "gamma", "beta", "alpha", "moving_mean", "moving_variance"):
            value = rng.uniform(0.5, 1.5, variable.shape)
            variable.assign(value if variable.name == "moving_variance" else value * rng.choice([-1, 1], variable.shape))


def shrink(model, inputs, keeps):
    """Zero what is not kept, then remove it. keeps: {"layer|slot": {axis: indices}}. Returns the outputs before."""
    randomize(model)
    traced = ADAPTER.trace(model, inputs)
    removals = [Removal(Site.parse(site), axis, tuple(keep)) for site, axes in keeps.items() for axis, keep in axes.items()]
    for removal in removals:
        variable = traced.variables[removal.site][2]
        value = np.moveaxis(variable.numpy(), removal.axis, 0).copy()
        value[[i for i in range(len(value)) if i not in removal.keep]] = 0
        variable.assign(np.moveaxis(value, 0, removal.axis))
    before = model(inputs, training=False)
    assert ADAPTER.remove_channels(model, removals, traced) is model
    return keras.tree.map_structure(lambda x: x.numpy(), before)


def assert_same(outputs, expected):
    for ours, theirs in zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-5 * max(np.abs(theirs).max(), 1))


def check_life(model, inputs, expected, tmp_path, custom_objects=None):
    """A shrunk model computes what it did, is read back from its files as it is, and trains."""
    assert_same(model(inputs, training=False), expected)
    model.save(tmp_path / "small.keras")
    read = keras.saving.load_model(tmp_path / "small.keras", custom_objects=custom_objects)
    assert_same(read(inputs, training=False), expected)
    assert [tuple(v.shape) for v in read.variables] == [tuple(v.shape) for v in model.variables]
    model.save_weights(tmp_path / "small.weights.h5")
    for variable in read.variables:
        variable.assign(keras.ops.zeros_like(variable))
    read.load_weights(tmp_path / "small.weights.h5")
    assert_same(read(inputs, training=False), expected)
    model.compile("sgd", "mse")
    targets = keras.tree.map_structure(np.zeros_like, expected)
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(inputs, targets, verbose=0)
    assert any((v.numpy() != value).any() for v, value in zip(model.trainable_variables, before, strict=True))


def conv_bn_flatten():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, name="conv"),
            L.BatchNormalization(name="bn"),
            L.PReLU(shared_axes=[1, 2], name="act"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(7, activation="relu", name="hidden"),
            L.Dense(4, name="fc"),
        ]
    )
    keep = (0, 2, 5)
    flat = tuple(6 * position + channel for position in range(9) for channel in keep)
    keeps = {
        "conv|weight": {3: keep},
        "conv|bias": {0: keep},
        "bn|weight": {0: keep},
        "bn|bias": {0: keep},
        "act|weight": {2: keep},
        "hidden|weight": {0: flat, 1: (1, 4)},
        "hidden|bias": {0: (1, 4)},
        "fc|weight": {0: (1, 4)},
    }
    return model, images(), keeps


def residual():
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(5, 3, padding="same", name="stem")(inputs)
    y = L.Conv2D(6, 3, padding="same", use_bias=False, name="a")(x)
    y = L.BatchNormalization(scale=False, name="bn")(y)
    y = keras.ops.relu(y)
    y = L.Conv2D(5, 3, padding="same", name="b")(y)
    z = L.GlobalAveragePooling2D()(keras.ops.relu6(x + y))
    model = keras.Model(inputs, L.Dense(3, activation="softmax", name="fc")(z))
    both, inner = (1, 3), (0, 4, 5)
    keeps = {
        "stem|weight": {3: both},
        "stem|bias": {0: both},
        "a|weight": {2: both, 3: inner},
        "bn|mean": {0: inner},
        "bn|bias": {0: inner},
        "b|weight": {2: inner, 3: both},
        "b|bias": {0: both},
        "fc|weight": {0: both},
    }
    return model, images(), keeps


def depthwise_separable():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 1, name="expand")(inputs)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = L.SeparableConv2D(6, 3, activation="silu", name="separable")(x)
    x = L.Conv2D(6, 1, groups=6, name="grouped")(x)
    x = L.Conv2DTranspose(5, 2, name="up")(x)
    model = keras.Model(inputs, L.Conv2D(2, 1, name="last")(x))
    keep, twice, deep, up = (1, 2), (2, 3, 4, 5), (0, 3, 5), (0, 4)
    keeps = {
        "expand|weight": {3: keep},
        "expand|bias": {0: keep},
        "depthwise|weight": {2: keep},
        "depthwise|bias": {0: twice},
        "separable/depthwise|weight": {2: twice},
        "separable|weight": {2: twice, 3: deep},
        "separable|bias": {0: deep},
        "grouped|weight": {3: deep},
        "grouped|bias": {0: deep},
        "up|weight": {2: up, 3: deep},
        "up|bias": {0: up},
        "last|weight": {2: up},
    }
    return model, images(), keeps


def concatenation():
    inputs = keras.Input((9, 4))
    a = L.Conv1D(3, 3, activation="relu", name="a")(inputs)
    b = L.Conv1D(4, 3, activation="tanh", name="b")(inputs)
    c = L.Conv1D(6, 1, name="c")(L.Concatenate()([a, L.SpatialDropout1D(0.1)(b)]))
    d = L.GroupNormalization(3, name="norm")(c)
    e = L.Conv1D(6, 1, groups=3, name="grouped")(d)
    model = keras.Model(inputs, {"out": L.Conv1D(2, 1, name="out")(e)})
    keeps = {
        "a|weight": {2: (2,)},
        "a|bias": {0: (2,)},
        "b|weight": {2: (0, 1, 3)},
        "b|bias": {0: (0, 1, 3)},
        "c|weight": {1: (2, 3, 4, 6), 2: (0, 1, 4, 5)},
        "c|bias": {0: (0, 1, 4, 5)},
        "norm|weight": {0: (0, 1, 4, 5)},
        "norm|bias": {0: (0, 1, 4, 5)},
        "grouped|weight": {2: (0, 1, 4, 5)},
        "grouped|bias": {0: (0, 1, 4, 5)},
        "out|weight": {1: (0, 1, 4, 5)},
    }
    return model, tokens(9, 4), keeps


def squeeze_and_excite():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    gate = L.Reshape((1, 1, 6), name="to_map")(L.GlobalAveragePooling2D()(x))
    gate = L.Conv2D(2, 1, activation="relu", name="squeeze")(gate)
    gate = L.Conv2D(6, 1, activation="sigmoid", name="excite")(gate)
    x = keras.ops.reshape(L.Multiply()([x, gate]), (-1, 36, 6))
    model = keras.Model(inputs, L.Dense(2, name="fc")(x))
    keep = (1, 5)
    keeps = {
        "conv|weight": {3: keep},
        "conv|bias": {0: keep},
        "squeeze|weight": {2: keep},
        "excite|weight": {3: keep},
        "excite|bias": {0: keep},
        "fc|weight": {0: keep},
    }
    return model, images(), keeps


def nested():
    stage = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(6, 3, padding="same", name="conv"), L.ReLU()], name="stage")
    inner_in = keras.Input((8, 8, 6))
    inner = keras.Model(inner_in, L.Add()([inner_in, stage(stage(inner_in))]), name="inner")
    inputs = keras.Input((8, 8, 3))
    x = inner(L.Conv2D(6, 3, padding="same", name="stem")(inputs))
    model = keras.Model(inputs, L.Conv2D(2, 1, name="last")(x))
    keep = (0, 1, 4)
    keeps = {
        "stem|weight": {3: keep},
        "stem|bias": {0: keep},
        "inner/stage/conv|weight": {2: keep, 3: keep},
        "inner/stage/conv|bias": {0: keep},
        "inner/stage/conv^1|weight": {2: keep},
        "last|weight": {2: keep},
    }
    return model, images(), keeps


def transformer():
    """Heads, the size of a head, the hidden units of the feed-forward part, and the width of the whole."""
    words = keras.Input((5,), dtype="int32")
    x = L.Embedding(11, 8, name="words")(words)
    y = L.MultiHeadAttention(4, 6, value_dim=3, name="attention")(x, x)
    x = L.Add()([x, y])
    y = L.Dense(10, activation="gelu", name="up")(x)
    x = L.Add()([x, L.EinsumDense("...a,ab->...b", 8, bias_axes="b", name="down")(y)])
    model = keras.Model(words, L.Dense(3, name="fc")(x))
    width, heads, size, value, hidden = (0, 2, 3, 7), (0, 3), (1, 2, 5), (0, 2), (1, 4, 5, 9)
    keeps = {"words|weight": {1: width}, "up|weight": {0: width, 1: hidden}, "up|bias": {0: hidden}, "fc|weight": {0: width}}
    keeps |= {"down|weight": {0: hidden, 1: width}, "down|bias": {0: width}}
    for name, kept in {"query": size, "key": size, "value": value}.items():
        keeps[f"attention/{name}|weight"] = {0: width, 1: heads, 2: kept}
        keeps[f"attention/{name}|bias"] = {0: heads, 1: kept}
    keeps["attention/attention_output|weight"] = {0: heads, 1: value, 2: width}
    keeps["attention/attention_output|bias"] = {0: width}
    return model, np.array([[1, 2, 3, 4, 10], [0, 5, 6, 7, 8]], "int32"), keeps


MODELS = [conv_bn_flatten, residual, depthwise_separable, squeeze_and_excite, nested, transformer, concatenation]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_without_channels_computes_what_it_did_with_zeros(make, tmp_path):
    model, inputs, keeps = make()
    weights = model.count_params()
    names = [variable.path for variable in model.variables]
    expected = shrink(model, inputs, keeps)
    assert model.count_params() < weights
    assert [variable.path for variable in model.variables] == names
    check_life(model, inputs, expected, tmp_path)


class Bottleneck(L.Layer):
    """A layer of the user's with others in it; all of one width."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first, self.second = L.Dense(width, activation="relu"), L.Dense(width)
        self.norm = L.BatchNormalization()

    def build(self, shape):
        self.first.build(shape)
        self.norm.build((*shape[:-1], self.width))
        self.second.build((*shape[:-1], self.width))

    def call(self, x):
        return self.second(self.norm(self.first(x)))


class Scaled(L.Layer):
    """A layer of the user's with weights of its own, whose code needs to know their size."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")

    def call(self, x):
        return keras.ops.reshape(keras.ops.matmul(x, self.w), (-1, self.units, 1))[..., 0]


class Net(keras.Model):
    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.stem = L.Conv2D(width, 3, padding="same")
        self.stages = [keras.Sequential([L.Conv2D(width, 3, padding="same"), L.ReLU()]) for _ in range(2)]
        self.head = L.Dense(3)

    def call(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = x + stage(x)
        return self.head(keras.ops.mean(x, (1, 2)))


def a_users_model():
    keep = (0, 2, 3)
    keeps = {"stem|weight": {3: keep}, "stem|bias": {0: keep}, "head|weight": {0: keep}}
    for stage in ("stages/0", "stages/1"):
        keeps |= {f"{stage}/conv2d|weight": {2: keep, 3: keep}, f"{stage}/conv2d|bias": {0: keep}}
    model, x = Net(), images()
    model(x)
    return model, x, keeps


def a_functional_model_with_users_layers():
    inputs = keras.Input((5, 8))
    x = Bottleneck(8, name="block")(inputs)
    x = Scaled(6, name="scaled")(L.Reshape((40,))(x))
    model = keras.Model(inputs, L.Dense(2, name="fc")(x))
    hidden, units = (0, 1, 6), (2, 3, 5)
    keeps = {
        "block/first|weight": {1: hidden},
        "block/first|bias": {0: hidden},
        "block/norm|weight": {0: hidden},
        "block/norm|bias": {0: hidden},
        "block/second|weight": {0: hidden},
        "scaled/matmul_0|weight": {1: units},
        "fc|weight": {0: units},
    }
    return model, tokens(), keeps


USERS = {"Net": Net, "Bottleneck": Bottleneck, "Scaled": Scaled}


@pytest.mark.parametrize("make", [a_users_model, a_functional_model_with_users_layers], ids=lambda make: make.__name__)
def test_a_file_of_a_users_model_has_the_channels_that_are_left(make, tmp_path):
    """Neither config can say that: one width is that of several layers."""
    model, inputs, keeps = make()
    expected = shrink(model, inputs, keeps)
    check_life(model, inputs, expected, tmp_path, USERS)
    again = keras.saving.load_model(tmp_path / "small.keras", custom_objects=USERS)
    assert type(again).__name__ == type(model).__name__
    assert isinstance(again, Net) == isinstance(model, Net)


def test_a_users_layer_whose_config_says_it_is_a_plain_file(tmp_path):
    model = keras.Sequential([keras.Input((8,)), Scaled(6, name="scaled"), L.Dense(2, name="fc")])
    expected = shrink(model, tokens(1)[:, 0], {"scaled/matmul_0|weight": {1: (1, 4)}, "fc|weight": {0: (1, 4)}})
    assert model.get_layer("scaled").get_config()["units"] == 2
    assert type(model) is keras.Sequential
    check_life(model, tokens(1)[:, 0], expected, tmp_path, USERS)


@pytest.mark.filterwarnings("ignore:magnitude_sparsity:UserWarning")  # whose schedule does not matter here
def test_a_model_can_shrink_again_and_be_compressed_afterwards(tmp_path):
    model, inputs, keeps = a_users_model()
    shrink(model, inputs, keeps)
    keep = (1, 2)
    keeps = {site: dict.fromkeys(axes, keep) for site, axes in keeps.items()}
    expected = shrink(model, inputs, keeps)
    assert tuple(model.stem.kernel.shape) == (3, 3, 3, 2)
    check_life(model, inputs, expected, tmp_path, USERS)
    config = NNCFConfig.from_dict(
        {"input_info": {"sample_size": [2, 8, 8, 3]}, "compression": {"algorithm": "magnitude_sparsity"}}
    )
    ctrl, compressed = create_compressed_model(model, config)
    expected = np.asarray(compressed(inputs))
    compressed.save(tmp_path / "compressed.keras")
    read = keras.saving.load_model(tmp_path / "compressed.keras", custom_objects=USERS)
    assert_same(read(inputs), expected)
    assert_same(ctrl.strip()(inputs), expected)


def conv_net(dtype=None, **conv):
    layers = [L.Conv2D(6, 3, name="conv", **conv), L.ReLU(), L.Conv2D(4, 3, name="last")]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


CONV_KEEPS = {"conv|weight": {3: (0, 2)}, "conv|bias": {0: (0, 2)}, "last|weight": {2: (0, 2)}}


def test_what_else_a_layer_is_stays():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = conv_net(kernel_regularizer="l2", kernel_constraint="max_norm")
    finally:
        keras.config.set_dtype_policy("float32")
    conv = model.get_layer("conv")
    conv.trainable = False
    regularizer = conv.kernel.regularizer
    shrink(model, images(), CONV_KEEPS)
    assert (conv.filters, tuple(conv.kernel.shape), conv.compute_dtype, conv.kernel.dtype) == (
        2,
        (3, 3, 3, 2),
        "bfloat16",
        "float32",
    )
    assert not conv.trainable
    assert not conv.kernel.trainable
    assert conv.kernel.regularizer is regularizer
    assert conv.kernel.constraint is conv.kernel_constraint
    assert model.get_layer("last").input_spec.axes == {-1: 2}
    assert model.layers[1].output.shape == (None, 6, 6, 2)


def test_a_compiled_model_goes_on_training():
    model = conv_net()
    model.compile("adam", "mse")
    targets = np.zeros((2, 4, 4, 4), "float32")
    model.fit(images(), targets, verbose=0)
    expected = shrink(model, images(), CONV_KEEPS)
    assert_same(model.predict(images(), verbose=0), expected)
    before = model.get_layer("conv").kernel.numpy()
    model.fit(images(), targets, verbose=0)
    assert (model.get_layer("conv").kernel.numpy() != before).any()


def test_channels_first():
    keras.backend.set_image_data_format("channels_first")
    try:
        inputs = keras.Input((3, 8, 8))
        x = L.GlobalAveragePooling2D()(L.BatchNormalization(1, name="bn")(L.Permute((3, 1, 2))(L.Permute((2, 3, 1))(inputs))))
        model = keras.Model(inputs, L.Dense(2, name="last")(L.Dense(5, name="fc")(x)))
    finally:
        keras.backend.set_image_data_format("channels_last")
    keeps = {"fc|weight": {1: (1, 3)}, "fc|bias": {0: (1, 3)}, "last|weight": {0: (1, 3)}}
    expected = shrink(model, np.moveaxis(images(), -1, 1), keeps)
    assert_same(model(np.moveaxis(images(), -1, 1)), expected)


def test_tied_weights_stay_tied():
    inputs = keras.Input((6,))
    first, second, last = L.Dense(6, name="first"), L.Dense(6, name="second"), L.Dense(2, name="last")
    model = keras.Model(inputs, last(second(first(L.Dense(6, name="front")(inputs)))))
    vars(second)["_kernel"] = first.kernel
    keep = (0, 3, 4)
    keeps = {"front|weight": {1: keep}, "front|bias": {0: keep}, "last|weight": {0: keep}}
    keeps |= {"first|weight": {0: keep, 1: keep}, "first|bias": {0: keep}, "second|bias": {0: keep}}
    inputs = tokens(1, 6)[:, 0]
    expected = shrink(model, inputs, keeps)
    assert second.kernel is first.kernel
    assert (first.units, second.units) == (3, 3)
    assert_same(model(inputs), expected)


def snapshot(model):
    configs = [(layer.get_config(), layer.get_build_config()) for layer in model._flatten_layers()]
    return [variable.numpy() for variable in model.variables], configs


@pytest.mark.parametrize(
    ("keeps", "message"),
    [
        ({"conv|weight": {3: (0, 2)}, "conv|bias": {0: (0, 2)}}, r"last: channels that reach it cannot be removed"),
        ({**CONV_KEEPS, "last|weight": {2: (0, 3)}}, r"last: .* \(it computes something else then\): .*ignored_scopes"),
        ({"conv|bias": {0: (0, 2)}}, r"conv: channels that reach it"),
    ],
)
def test_a_model_that_cannot_shrink_stays_as_it_was(keeps, message):
    model = conv_net()
    expected = model(images()).numpy()
    before = snapshot(model)
    removals = [Removal(Site.parse(site), axis, keep) for site, axes in keeps.items() for axis, keep in axes.items()]
    with pytest.raises(ConfigError, match=message) as caught:
        ADAPTER.remove_channels(model, removals, ADAPTER.trace(model, images()))
    assert "\n" not in str(caught.value)
    np.testing.assert_equal(snapshot(model), before)
    np.testing.assert_array_equal(model(images()), expected)


@pytest.mark.parametrize(
    ("removal", "message"),
    [
        (Removal(Site("conv", "gamma"), 0, (1,)), "the model has no such parameter"),
        (Removal(Site("conv", "weight"), 3, ()), "expected sorted indices below 6, at least one"),
        (Removal(Site("conv", "weight"), 3, (2, 1)), "expected sorted indices below 6, at least one"),
        (Removal(Site("conv", "weight"), 3, (6,)), "expected sorted indices below 6, at least one"),
    ],
)
def test_removals_that_make_no_sense(removal, message):
    model = conv_net()
    with pytest.raises(ValueError, match=message):
        ADAPTER.remove_channels(model, [removal], ADAPTER.trace(model, images()))


def test_unequal_groups_are_refused():
    model = keras.Sequential([keras.Input((8, 6)), L.Conv1D(6, 1, groups=2, name="grouped"), L.Conv1D(2, 1, name="last")])
    keep = (0, 1, 2, 5)
    with pytest.raises(ConfigError, match="grouped: .*its groups would have 1 to 3 channels"):
        shrink(model, tokens(8, 6), {"grouped|weight": {2: keep}, "grouped|bias": {0: keep}, "last|weight": {1: keep}})


def own_attention():
    """Heads made by a Reshape: two of four go."""
    inputs = keras.Input((5, 8))
    q, k, v = (L.Reshape((5, 4, 6))(L.Dense(24, name=name)(inputs)) for name in ("q", "k", "v"))
    scores = L.Softmax()(keras.ops.einsum("bqhd,bkhd->bhqk", q, k) / 2.0)
    x = keras.ops.reshape(keras.ops.einsum("bhqk,bkhd->bqhd", scores, v), (-1, 5, 24))
    model = keras.Model(inputs, L.Dense(2, name="out")(x))
    keep = tuple(6 * head + i for head in (0, 3) for i in range(6))
    keeps = {f"{name}|weight": {1: keep} for name in "qkv"} | {f"{name}|bias": {0: keep} for name in "qkv"}
    return model, tokens(), keeps | {"out|weight": {0: keep}}


def shuffle():
    """Channels of three groups, mixed by two Reshapes: the same ones leave each group."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(12, 3, name="conv")(inputs)
    x = L.Reshape((6, 6, 12))(L.Permute((1, 2, 4, 3))(L.Reshape((6, 6, 3, 4))(x)))
    model = keras.Model(inputs, L.Conv2D(2, 1, name="last")(x))
    keep = tuple(4 * group + i for group in range(3) for i in (0, 3))
    return model, images(), {"conv|weight": {3: keep}, "conv|bias": {0: keep}, "last|weight": {2: (0, 1, 2, 9, 10, 11)}}


def split_and_slices():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, padding="same", name="conv")(inputs)
    a, b = keras.ops.split(x, [6], axis=-1)
    c = L.Conv2D(10, 1, name="inner")(a)
    x = L.Concatenate()([b + c, x[..., 2:7], x[:, :, :, -1:]])
    model = keras.Model(inputs, L.Conv2D(2, 1, name="last")(x))
    first, second = (1, 2, 4), (0, 1, 5, 9)  # of 6 and of 10
    keep = (*first, *(6 + i for i in second))
    keeps = {"conv|weight": {3: keep}, "conv|bias": {0: keep}}
    keeps |= {"inner|weight": {2: first, 3: second}, "inner|bias": {0: second}}
    read = [*second, *(10 + i for i in range(5) if 2 + i in keep), 15]
    return model, images(), keeps | {"last|weight": {2: read}}


@pytest.mark.parametrize("make", [own_attention, shuffle, split_and_slices], ids=lambda make: make.__name__)
def test_sizes_in_operations_follow(make, tmp_path):
    model, inputs, keeps = make()
    expected = shrink(model, inputs, keeps)
    check_life(model, inputs, expected, tmp_path)


@pytest.mark.parametrize("side", [2, 6], ids=["channels are the longest axis", "positions are the longest axes"])
def test_a_decoder_that_reshapes_to_a_map(side, tmp_path):
    size = side * side * 3
    layers = [L.Dense(size, name="fc"), L.Reshape((side, side, 3)), L.Conv2DTranspose(2, 3, name="up")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    keep = tuple(index for index in range(size) if index % 3 != 1)
    keeps = {"fc|weight": {1: keep}, "fc|bias": {0: keep}, "up|weight": {3: (0, 2)}}
    expected = shrink(model, tokens(1)[:, 0], keeps)
    check_life(model, tokens(1)[:, 0], expected, tmp_path)


def test_a_network_of_keras_applications(tmp_path):
    """The first blocks of EfficientNet: squeeze and excite reshapes channels and multiplies them, depthwise layers follow."""
    whole = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    next(layer for layer in whole.layers if isinstance(layer, L.Normalization)).adapt(images(32))
    x = L.GlobalAveragePooling2D()(whole.get_layer("block3a_project_bn").output)
    model = keras.Model(whole.input, L.Dense(10)(x))
    names = [layer.name.removesuffix("_expand_conv") for layer in model.layers if layer.name.endswith("_expand_conv")]
    keeps = {}
    for number, name in enumerate(names):
        size = model.get_layer(f"{name}_expand_conv").filters
        keep = np.sort(np.random.default_rng(number).choice(size, size // 2, replace=False))
        keeps |= {f"{name}_{maker}|weight": {3: keep} for maker in ("expand_conv", "se_expand")}
        keeps |= {f"{name}_{bn}|{slot}": {0: keep} for bn in ("expand_bn", "bn") for slot in ("weight", "bias")}
        keeps |= {f"{name}_{taker}|weight": {2: keep} for taker in ("dwconv", "se_reduce", "project_conv")}
        keeps[f"{name}_se_expand|bias"] = {0: keep}
    before = model.count_params()
    expected = shrink(model, images(32), keeps)
    assert model.count_params() < 0.75 * before
    assert_same(model(images(32)), expected)
    model.save(tmp_path / "small.keras")
    assert_same(keras.saving.load_model(tmp_path / "small.keras")(images(32)), expected)


def test_a_small_model_is_quantized_and_exported(tmp_path):
    keras.utils.set_random_seed(0)  # a value in the middle between two integers may become either
    model, inputs, keeps = residual()
    shrink(model, inputs, keeps)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 8, 8, 3]}, "compression": {"algorithm": "quantization"}})
    ctrl, model = create_compressed_model(model, register_default_init_args(config, [inputs], 2))
    expected = model(inputs).numpy()
    ctrl.export_model(tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    np.testing.assert_allclose(session.run(None, {"image": inputs})[0], expected, atol=1e-4)
    shapes = {tuple(tensor.dims) for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert (3, 2, 3, 3) in shapes  # 3 of 6 channels, which take 2 of 5
    model.export(tmp_path / "saved_model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(served.serve(inputs), expected, atol=1e-5)
