"""`load_state`: weights from a plain model, a compressed one, a checkpoint, or arrays by name."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, load_state

from nncf_ext import NNCFConfig

CONFIG = {
    "input_info": {"sample_size": [1, 6]},
    "compression": [{"algorithm": "magnitude_sparsity"}, {"algorithm": "quantization"}],
}


def net(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, name="first"), layers.ReLU(name="relu"), layers.Dense(2, name="last")]
    )


def compressed(seed):
    ctrl, model = create_compressed_model(net(seed), NNCFConfig.from_dict(CONFIG))
    ctrl.set_sparsity_level(0.2 + 0.2 * seed)
    return ctrl, model


def weights(model):
    return [np.array(layer.get_weights()[0]) for layer in (model.get_layer("first"), model.get_layer("last"))]


def test_from_a_plain_model():
    plain, (_, model) = net(0), compressed(1)
    with pytest.warns(UserWarning, match="4 tensors loaded; .* is missing"):
        assert load_state(model, plain) == 4
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(plain), strict=True))
    with pytest.raises(RuntimeError, match="is missing"):
        load_state(model, plain, is_resume=True)


def test_from_a_compressed_model_and_its_checkpoint(tmp_path):
    ctrl, source = compressed(0)
    ctrl.save_checkpoint(tmp_path / "c.safetensors")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    expected = np.asarray(source(x, training=False))
    for state in (source, tmp_path / "c.safetensors", str(tmp_path / "c.safetensors")):
        _, model = compressed(1)
        assert not np.array_equal(np.asarray(model(x, training=False)), expected)
        load_state(model, state, is_resume=True)
        assert np.array_equal(np.asarray(model(x, training=False)), expected)
    plain = net(2)
    with pytest.warns(UserWarning, match="4 tensors loaded; .* has no place in the model"):
        assert load_state(plain, source) == 4


def test_arrays_by_name_and_what_is_ignored():
    model = net(0)
    kernel = np.ones((6, 5), np.float32)
    others = ["first/bias", "last/kernel", "last/bias", "more"]
    assert load_state(model, {"first/kernel": kernel, "more": kernel}, is_resume=True, keys_to_ignore=others) == 1
    assert np.array_equal(weights(model)[0], kernel)


def test_a_wrong_shape_changes_nothing_on_resume():
    model = net(0)
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"first/kernel has shape \(2, 2\), the model's \(6, 5\)"):
        load_state(model, {"first/kernel": np.ones((2, 2), np.float32)}, is_resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), before, strict=True))
