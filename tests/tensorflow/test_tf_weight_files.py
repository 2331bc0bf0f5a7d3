"""What a compressed model has in Keras' own files of weights is looked at before anything of it is taken."""

import json

import h5py
import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model
from nncf_ext_tensorflow.variables import STATE

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
OURS = "nncf_ext/vars"
SPARSITY = {
    "algorithm": "magnitude_sparsity",
    "params": {"schedule": "multistep", "multistep_sparsity_levels": [0.5], "multistep_steps": []},
}


def compressed():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a")])
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 8]}, "compression": SPARSITY})
    return create_compressed_model(model, config)


def replaced(path, name, value):
    with h5py.File(path, "r+") as file:
        del file[OURS][name]
        file[OURS][name] = value


def state_in(path):
    with h5py.File(path) as file:
        return json.loads(file[OURS][STATE][()].tobytes())


def as_bytes(text):
    return np.frombuffer(text, np.uint8)


def test_a_damaged_state_or_variable_changes_nothing(tmp_path):
    controller, model = compressed()
    controller.scheduler.epoch_step()
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    state = state_in(path)
    with h5py.File(path) as file:
        mask = next(name for name in file[OURS] if name.endswith("mask"))
        content = file[OURS][mask][()]
    controller.scheduler.epoch_step()
    before, values = controller.get_compression_state(), [v.numpy() for v in controller.model.nncf_ext.variables]
    level = {**state, "algorithms": {"magnitude_sparsity": {**state["algorithms"]["magnitude_sparsity"], "state": {"level": 7}}}}
    for name, value, message in (
        (STATE, as_bytes(b"[" * 1000), "nested more than 64 deep"),
        (STATE, as_bytes(b"{"), "found no JSON"),
        (STATE, as_bytes(b"[1]"), "this is no compression state"),
        (STATE, as_bytes(b'{"algorithms": 1}'), "this is no compression state"),
        (STATE, as_bytes(json.dumps(level).encode()), "level: found 7"),
        (STATE, np.zeros(3), r"found float64\[3\], expected bytes"),
        (mask, content[:1], r"has shape \[1, 4\], the model's \[8, 4\]"),
    ):
        model.save_weights(path)
        replaced(path, mask, 1 - content)
        replaced(path, name, value)
        with pytest.raises(ValueError, match=message):
            model.load_weights(path)
        assert controller.get_compression_state() == before
        assert all(np.array_equal(a, b) for a, b in zip(values, (v.numpy() for v in model.nncf_ext.variables), strict=True))


def test_the_state_in_a_file_is_taken_over(tmp_path):
    controller, model = compressed()
    controller.scheduler.epoch_step(3)
    model.save_weights(tmp_path / "a.weights.h5")
    other, twin = compressed()
    twin.load_weights(tmp_path / "a.weights.h5")
    assert other.scheduler.current_epoch == 3
