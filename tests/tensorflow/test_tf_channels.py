"""Groups of coupled channels of Keras models: counted by hand, and proved by zeroing units."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from nncf_ext_tensorflow.trace import trace

from nncf_ext.channels.groups import channel_groups


def free(groups):
    return [group for group in groups if group.blocked is None]


def outputs_of(model, inputs):
    return [x.numpy() for x in keras.tree.flatten(model(inputs, training=False))]


def check_units(model, inputs, rounds=1, seed=0):
    """With the outputs and followers of one unit of every free group zero, the inputs of these have no influence on the model."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) == 1:  # biases of zero and scales of one would hide mistakes
            variable.assign(variable + 0.1 * random.uniform(size=variable.shape))
    traced = trace(model, inputs)
    groups = channel_groups(traced.graph)
    before = [variable.numpy().copy() for variable in model.weights]
    for _ in range(rounds):
        fed = []
        for group in free(groups):
            unit = random.integers(group.size)
            for member in group.members:
                variable = traced.variables[member.site][2]
                assert len(member.units) == variable.shape[member.axis]
                assert set(member.units) - {-1} == set(range(group.size))
                slices = (slice(None),) * member.axis + (np.array(member.units) == unit,)
                if member.role == "input":
                    fed.append((variable, slices))
                else:
                    value = variable.numpy().copy()
                    value[slices] = 0
                    variable.assign(value)
        zeroed = outputs_of(model, inputs)
        for variable, slices in fed:
            value = variable.numpy().copy()
            value[slices] += random.normal(size=value[slices].shape)
            variable.assign(value)
        assert fed or not free(groups)
        for old, new in zip(zeroed, outputs_of(model, inputs), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-5, rtol=1e-5)
        for variable, value in zip(model.weights, before, strict=True):
            variable.assign(value)
    return groups


APPLICATIONS = {  # number of free groups, of their units
    "ResNet50": (37, 11456),
    "MobileNetV2": (25, 9128),
    "DenseNet121": (120, 10240),
    "EfficientNetB0": (40, 11404),
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_units_of_applications(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3))
    groups = check_units(model, np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32"))
    assert (len(free(groups)), sum(group.size for group in free(groups))) == APPLICATIONS[name]
    assert [group.size for group in groups if group.blocked] == [1000]


def attention(x, use_gate=False):
    attended = L.MultiHeadAttention(num_heads=3, key_dim=4, value_dim=5, output_shape=8, name="mha")(x, x)
    x = L.LayerNormalization(name="norm")(x + attended)
    return L.Dense(2, name="last")(L.Dense(6, activation="gelu", name="ffn")(x))


def einsum_dense(x):
    x = L.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de", activation="relu", name="heads")(x)
    return L.EinsumDense("abde,def->abf", (None, 2), name="last")(x)


def layout(x):
    x = L.Conv2D(6, 3, padding="same", name="conv")(x)
    x = L.Permute((3, 1, 2))(x)  # channels first
    x = L.Reshape((6, 64))(x)
    return L.Dense(2, name="last")(L.Flatten()(x))


def pieces(x):
    x = L.Conv2D(8, 3, padding="same", name="conv")(x)
    a, b = ops.split(x, 2, axis=-1)
    c, d = x[..., :2], ops.take(x, [3, 2], axis=-1)
    return [L.Conv2D(2, 1, name="last")(a * b), L.Conv2D(2, 1, name="other")(ops.concatenate([c, d], axis=-1))]


def shuffle(x):
    x = L.Conv2D(12, 3, padding="same", name="conv")(x)
    x = L.Reshape((8, 8, 3, 4))(x)
    x = L.Reshape((8, 8, 12))(ops.transpose(x, (0, 1, 2, 4, 3)))
    return L.Conv2D(2, 1, name="last")(L.Conv2D(8, 3, groups=4, name="grouped")(x))


def separable(x):
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, activation="silu", name="first")(L.Conv2D(4, 1, name="conv")(x))
    x = L.GroupNormalization(3, name="norm")(x)
    return L.Conv2DTranspose(2, 3, name="last")(L.DepthwiseConv2D(3, activation="relu", name="depthwise")(x))


def constants(x):
    x = L.Conv2D(4, 1, name="conv")(x)
    return L.Conv2D(2, 1, name="last")(x * np.ones(4, "float32") * 2.0)


def not_zero(x):
    x = L.Conv2D(4, 1, activation="sigmoid", name="conv")(x)
    return L.Conv2D(2, 1, name="last")(L.Conv2D(4, 1, name="relu")(x) + 1.0)


def shared(x):
    dense = L.Dense(8, activation="relu", name="twice")
    return L.Dense(2, name="last")(dense(dense(L.Dense(8, name="first")(x))))


IMAGE, ROWS = (8, 8, 3), (5, 8)
NETS = {  # sizes of the free groups by the layer that makes them first
    attention: (ROWS, {"mha/query": 3, "ffn": 6}),
    einsum_dense: (ROWS, {"heads": 4}),  # of a (3, 4) grid the longer side
    layout: (IMAGE, {"conv": 6}),
    pieces: (IMAGE, {"conv": 4}),  # equal halves lose the same: 0 and 4, 1 and 5, ...
    shuffle: (IMAGE, {"conv": 4}),
    separable: (IMAGE, {"conv": 4, "first": 3}),
    constants: (IMAGE, {}),
    not_zero: (IMAGE, {}),
    shared: (ROWS, {"first": 8}),
}


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_units_of_one_mechanism(build):
    keras.utils.set_random_seed(0)
    shape, expected = NETS[build]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    groups = check_units(model, np.random.default_rng(0).normal(size=(2, *shape)).astype("float32"), rounds=3)
    assert {group.name: group.size for group in free(groups)} == expected


class Block(keras.Model):
    """A subclassed model: a learned scale, attention written out with keras.ops, a token of its own."""

    def __init__(self):
        super().__init__()
        self.projections = [L.Dense(12) for _ in range(3)]
        self.out = L.Dense(8)
        self.scale = self.add_weight(shape=(8,), name="scale", initializer="random_normal")
        self.token = self.add_weight(shape=(1, 1, 8), name="token", initializer="random_normal")
        self.last = L.Dense(2)

    def call(self, x):
        q, k, v = (ops.reshape(dense(x), (-1, 5, 3, 4)) for dense in self.projections)
        weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k) * 0.5)
        x = self.out(ops.reshape(ops.einsum("bhqk,bkhd->bqhd", weights, v), (-1, 5, 12))) * self.scale
        token = x[:, :1] * 0.0 + self.token
        return self.last(ops.concatenate([token, x], axis=1))


def test_a_subclassed_model():
    keras.utils.set_random_seed(0)
    model = Block()
    inputs = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    model(inputs)
    groups = check_units(model, inputs, rounds=3)
    assert [group.size for group in free(groups)] == [3, 8]


def test_channels_first():
    inputs = keras.Input((3, 8, 8))
    x = L.Conv2D(4, 3, data_format="channels_first", name="conv")(inputs)
    x = L.ReLU()(L.BatchNormalization(axis=1, name="bn")(x))
    x = L.GlobalAveragePooling2D(data_format="channels_first")(x)
    groups = channel_groups(trace(keras.Model(inputs, L.Dense(2, name="fc")(x))).graph)
    assert [(str(member.site), member.axis, member.role) for member in groups[0].members] == [
        ("conv|weight", 3, "output"),
        ("conv|bias", 0, "follower"),
        ("bn|weight", 0, "follower"),
        ("bn|bias", 0, "follower"),
        ("bn|mean", 0, "follower"),
        ("bn|variance", 0, "follower"),
        ("fc|weight", 0, "input"),
    ]
