"""What configs and scripts of NNCF 2.x may still say."""

import numpy as np
import onnx
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig


def sample(step):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step)) * (1 + step), torch.zeros(2)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()


def config_with(amount):
    initializer = {"range": amount, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    return {
        "input_info": {"sample_size": [1, 3, 8, 8]},
        "compression": {"algorithm": "quantization", "initializer": initializer},
    }


@pytest.mark.filterwarnings("ignore:config. the key 'num_:FutureWarning")
def test_counted_batches_are_batches_of_the_loader():
    """Three batches of two: six samples, as `num_init_samples` would have it."""
    batches = [sample(step) for step in range(5)]

    def scales(amount):
        config = NNCFConfig.from_dict(config_with(amount))
        ctrl, _ = create_compressed_model(net(), register_default_init_args(config, batches))
        return [value for edit in ctrl.plan for value in ctrl.variable_values(edit).values()]

    by_batches, by_samples, by_more = (
        scales(a) for a in ({"num_init_steps": 3}, {"num_init_samples": 6}, {"num_init_samples": 8})
    )
    assert all(np.array_equal(a, b) for a, b in zip(by_batches, by_samples, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(by_batches, by_more, strict=True))


@pytest.mark.parametrize("save_format", ["onnx_17", "onnx_18"])
def test_another_opset(tmp_path, save_format):
    ctrl, _ = create_compressed_model(net(), NNCFConfig.from_dict(config_with({"num_init_samples": 0})))
    parity = ctrl.export_model(tmp_path / "model.onnx", save_format)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == int(save_format[-2:])
    assert parity.lsb <= 1


def test_what_is_no_format_of_a_file(tmp_path):
    ctrl, _ = create_compressed_model(net(), NNCFConfig.from_dict(config_with({"num_init_samples": 0})))
    for save_format, message in (("frozen_graph", "expected 'onnx' or 'onnx_<opset>'"), ("onnx_5", "opset 5")):
        with pytest.raises(ValueError, match=message):
            ctrl.export_model(tmp_path / "model.onnx", save_format)
    assert not list(tmp_path.iterdir())
