"""A model of PyTorch in a packed file: what is quantized, masked and pruned is stored as that."""

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig, packed


def compressed(compression):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 32))
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": compression})
    batches = [(torch.randn(8, 3, 8, 8), torch.zeros(8)) for _ in range(2)]
    return create_compressed_model(model, register_default_init_args(config, batches))


SPARSE = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.9, "params": {"sparsity_target": 0.9}}


@pytest.mark.parametrize(
    ("compression", "codec", "most_bits"),
    [
        ([{"algorithm": "quantization"}], "scaled, book", 8.0),
        ([{"algorithm": "quantization", "weights": {"bits": 4}}, SPARSE], "scaled, ", 1.0),
        (SPARSE, "sparse, ", 5.0),
        ({"algorithm": "quantization", "weights": {"quantizer": "stretched_elastic", "levels": 3}}, None, 4.0),
    ],
)
def test_packed_model_is_the_stripped_one(compression, codec, most_bits, tmp_path):
    ctrl, model = compressed(compression)
    ctrl.pack(tmp_path / "model.ncp")
    plain = ctrl.strip(quantizers=False).state_dict()
    arrays = packed.load(tmp_path / "model.ncp")
    assert set(arrays) == set(plain)
    for name, value in plain.items():
        np.testing.assert_array_equal(arrays[name], value.numpy(), err_msg=name)
    file = packed.Packed(tmp_path / "model.ncp")
    assert codec is None or file.codec("4.weight").startswith(codec)
    assert 8 * file.stored_bytes("4.weight") / plain["4.weight"].numel() < most_bits
    assert file.metadata["source"] == "torch"


def test_integers_stay_integers_where_neurons_were_removed(tmp_path):
    pruned = {"algorithm": "iterative_magnitude", "params": {"sparsity_target": 0.98, "rounds": 1}}
    ctrl, _ = compressed([{"algorithm": "quantization", "weights": {"bits": 4}}, pruned])
    ctrl.scheduler.epoch_step()
    ctrl.pack(tmp_path / "model.ncp")
    file, plain = packed.Packed(tmp_path / "model.ncp"), ctrl.strip(quantizers=False).state_dict()
    assert plain["4.weight"].shape[1] < 1024
    assert file.codec("4.weight").startswith("scaled, ")
    for name, value in plain.items():
        np.testing.assert_array_equal(file[name], value.numpy(), err_msg=name)
