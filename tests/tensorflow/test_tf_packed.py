"""A Keras model in a packed file."""

import keras
import numpy as np
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig, packed


def test_packed_model_is_the_stripped_one(tmp_path):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, "relu", name="a"), keras.layers.Dense(32, name="b")]
    model = keras.Sequential([keras.Input((64,)), *layers])
    sparse = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.8, "params": {"sparsity_target": 0.8}}
    config = NNCFConfig.from_dict({"compression": [{"algorithm": "quantization"}, sparse]})
    data = [(np.random.default_rng(i).normal(size=(8, 64)).astype("float32"), None) for i in range(2)]
    ctrl, model = create_compressed_model(model, register_default_init_args(config, data, 8))
    ctrl.pack(tmp_path / "model.ncp")
    plain = ctrl._adapter.tensors(ctrl.strip(quantizers=False))
    file = packed.Packed(tmp_path / "model.ncp")
    assert set(file) == set(plain)
    for name, value in plain.items():
        np.testing.assert_array_equal(file[name], value, err_msg=name)
    assert file.codec("a/kernel").startswith("scaled, ")
    assert 8 * file.stored_bytes("a/kernel") / plain["a/kernel"].size < 2.5
