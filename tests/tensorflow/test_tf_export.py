"""`ctrl.export_model` in Keras: what the file holds, that it runs in integers, and that it is the model."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig
from nncf_ext.export import integer_operators
from nncf_ext.export.parity import ExportWarning, Parity, run, session

SHAPE = (12, 12, 3)


def net() -> keras.Model:
    """A strided and padded convolution, a depthwise residual block with BatchNorm, a pooled dense layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, name="image")
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(inputs)
    x = L.Conv2D(8, 3, strides=2, activation="relu", name="stem")(x)
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(16, 1, use_bias=False)(x)))
    y = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
    y = L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(y))
    x = L.Add()([x, y])
    outputs = L.Dense(5, name="scores")(L.Dropout(0.2)(L.GlobalAveragePooling2D()(x)))
    return with_statistics(keras.Model(inputs, outputs))


def with_statistics(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            for variable, value in (
                (layer.gamma, rng.uniform(-1.5, 1.5, layer.gamma.shape)),
                (layer.beta, rng.normal(size=layer.beta.shape)),
                (layer.moving_mean, rng.normal(size=layer.beta.shape)),
                (layer.moving_variance, rng.uniform(0.5, 2, layer.beta.shape)),
            ):
                variable.assign(value.astype("float32"))
    return model


def compressed(model: keras.Model, *algorithms: dict, shape=SHAPE, **keys):
    range_init = {"range": {"num_init_samples": 8}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    quantization = {"algorithm": "quantization", "initializer": range_init, **keys}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, *shape]}, "compression": [*algorithms, quantization]})
    rng = np.random.default_rng(1)
    data = [(rng.normal(size=(4, *shape)).astype("float32"), np.zeros(4)) for _ in range(2)]
    return create_compressed_model(model, register_default_init_args(config, data, 4))


def test_every_convolution_runs_in_integers_and_the_outputs_agree(tmp_path):
    ctrl, _ = compressed(net(), {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5})
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.samples == 8 and parity.lsb <= 1 and parity.unoptimized <= parity.step
    operators = integer_operators(tmp_path / "model.onnx")
    assert operators["QLinearConv"] == 4 and operators["QLinearAdd"] == 1
    assert not {"Conv", "BatchNormalization", "Clip", "Relu", "Gemm", "MatMul", "LeakyRelu"} & set(operators)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("mode", ["symmetric", "asymmetric"])
def test_ranges_by_channel(tmp_path, mode, bits):
    """As many channels as rows and columns, so that no shape tells which axis is which."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 8))
    x = L.ReLU(name="first")(L.Conv2D(8, 3, padding="same")(inputs))
    x = L.MaxPooling2D()(L.ReLU()(L.Add()([x, L.Conv2D(8, 1)(x)])))
    model = keras.Model(inputs, L.Dense(5)(L.Dense(16, activation="tanh")(L.Flatten()(x))))
    activations = {"mode": mode, "bits": bits, "per_channel": True}
    ctrl, model = compressed(model, shape=(8, 8, 8), activations=activations)
    ranges = {e.key: [v.shape for v in ctrl.variable_values(e).values()] for e in ctrl.plan if not e.site.is_parameter}
    assert len(ranges) == 5 and all(s[-1] > 1 and set(s[:-1]) == {1} for shapes in ranges.values() for s in shapes if s)
    parity = ctrl.export_model(tmp_path / "model.onnx")
    levels = 17 if bits == 4 else 1  # an output step is an 8-bit one, a flipped 4-bit code counts 17 of them
    assert parity.unoptimized <= levels * parity.step


def test_mixed_bits(tmp_path):
    bits = [
        [2, "{re}depthwise.*\\|WEIGHT"],
        [4, "{re}stem.*\\|WEIGHT"],
        [3, "{re}scores.*\\|WEIGHT"],
        [4, "{re}re_lu.*\\|OUTPUT"],
    ]
    batchnorm = {"num_bn_adaptation_samples": 0}
    initializer = {"batchnorm_adaptation": batchnorm, "precision": {"bitwidth_per_scope": bits}}
    ctrl, _ = compressed(net(), initializer=initializer)
    assert len({edit.transform.bits for edit in ctrl.plan}) == 4
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.samples == 8 and parity.lsb <= 1 and parity.unoptimized <= parity.step


def test_batch_size_is_free_and_names_are_the_models_or_the_users(tmp_path):
    ctrl, model = compressed(net())
    ctrl.export_model(tmp_path / "own.onnx")
    ctrl.export_model(tmp_path / "given.onnx", input_names=["x"], output_names=["y"])
    own, given = session(tmp_path / "own.onnx"), session(tmp_path / "given.onnx")
    assert [v.name for v in (*own.get_inputs(), *own.get_outputs())] == ["image", "scores"]
    assert [v.name for v in (*given.get_inputs(), *given.get_outputs())] == ["x", "y"]
    x = np.random.default_rng(2).normal(size=(7, *SHAPE)).astype("float32")
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(run(own, [x])[0], expected, atol=float(np.ptp(expected)) / 60)


def test_the_model_is_as_it_was(tmp_path):
    ctrl, model = compressed(net())
    x = np.random.default_rng(2).normal(size=(4, *SHAPE)).astype("float32")
    before = [w.numpy() for w in model.variables]
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    ctrl.export_model(tmp_path / "model.onnx")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(x, training=False)), expected)
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.variables, strict=True))
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((4, 5)), verbose=0)


@pytest.mark.parametrize("kind", ["subclassed", "sequential", "two inputs", "dense on a sequence", "transposed"])
def test_other_models(tmp_path, kind):
    keras.utils.set_random_seed(0)
    shape: tuple[int, ...] = SHAPE
    if kind == "sequential":
        model = keras.Sequential([keras.Input(SHAPE), L.SeparableConv2D(8, 3, activation="relu"), L.Flatten(), L.Dense(4)])
    elif kind == "transposed":
        x = inputs = keras.Input(SHAPE)
        x = L.ReLU()(L.BatchNormalization()(L.Conv2DTranspose(4, 3, strides=2)(x)))
        model = with_statistics(keras.Model(inputs, L.Conv2D(4, 3, groups=2)(x)))
    elif kind == "dense on a sequence":
        shape = (6, 8)
        inputs = keras.Input(shape)
        x = L.LayerNormalization()(L.Dense(16, activation="gelu")(inputs))
        model = keras.Model(inputs, L.Dense(4)(L.MultiHeadAttention(2, 8)(x, x)))
    elif kind == "two inputs":
        first, second = keras.Input(SHAPE, name="b"), keras.Input(SHAPE, name="a")
        both = L.Concatenate()([L.Conv2D(4, 3)(first), L.Conv2D(4, 3)(second)])
        model = keras.Model([first, second], L.Conv2D(2, 1)(both))
    else:
        model = Subclassed()
        model(np.zeros((1, *SHAPE), "float32"))
    if kind == "two inputs":
        config = NNCFConfig.from_dict(
            {"input_info": [{"sample_size": [2, *SHAPE]}] * 2, "compression": {"algorithm": "quantization", "initializer": {}}}
        )
        rng = np.random.default_rng(1)
        data = [([rng.normal(size=(4, *SHAPE)).astype("float32") for _ in range(2)], np.zeros(4))]
        ctrl, _ = create_compressed_model(model, register_default_init_args(config, data, 4))
    else:
        ctrl, _ = compressed(model, shape=shape)
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.unoptimized <= parity.step


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = L.Conv2D(6, 3), L.Dense(3)

    def call(self, x):
        x = keras.ops.relu(self.conv(x))
        return self.head(keras.ops.mean(x, axis=(1, 2)))


def test_logarithms_and_four_bits_by_scope(tmp_path):
    logarithm = {"logarithm_scale": True}
    overrides = {"weights": {"{re}conv": {"bits": 4}}, "activations": {"{re}scores": {"bits": 4, "mode": "asymmetric"}}}
    ctrl, _ = compressed(net(), weights=logarithm, activations=logarithm, scope_overrides=overrides)
    assert {edit.transform.bits for edit in ctrl.plan if edit.site.is_parameter} == {4, 8}
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.lsb <= 1 and parity.unoptimized <= parity.step
    operators = integer_operators(tmp_path / "model.onnx")
    assert not {"Conv", "BatchNormalization", "Relu", "Gemm", "MatMul"} & set(operators)  # a Clip has the codes of the 4-bit one


def test_a_file_is_worse_than_the_model_only_by_all_draws(tmp_path, monkeypatch):
    from nncf_ext.export import model as export

    inputs = keras.Input((6,))
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    data = np.random.default_rng(0).random((4, 6), np.float32)
    controller, _ = create_compressed_model(
        keras.Model(inputs, L.Dense(3)(inputs)), register_default_init_args(config, [data], 4)
    )
    draws, good = [], 2

    def judged(file, inputs, references, step, own):
        draws.append(own.moved[0][0])
        return Parity(1.0, 1.0, 1.0, 4, own=0.1, exact=len(draws) > good)

    monkeypatch.setattr(export, "parity", judged)
    assert controller.export_model(tmp_path / "a.onnx").exact and len(draws) == 3
    assert not any(np.array_equal(a, b) for a, b in zip(draws, draws[1:], strict=False))
    draws, good = [], 4
    with pytest.warns(ExportWarning, match="worse than the model itself"):
        controller.export_model(tmp_path / "a.onnx")
    assert len(draws) == 4
