"""Weights from plain, compressed, wrapped and NNCF 2.x state dicts."""

import pytest
import torch
from nncf_ext_torch import create_compressed_model, load_state, register_default_init_args
from nncf_ext_torch.forward_scope import in_forward
from torch import nn

from nncf_ext import NNCFConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).flatten(1))


def compressed(seed=0, **quantization):
    torch.manual_seed(seed)
    compression = [{"algorithm": "quantization", **quantization}, {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}]
    config = NNCFConfig.from_dict({"compression": compression})
    register_default_init_args(config, [torch.rand(2, 1, 4, 4) - 0.5])
    return create_compressed_model(Net(), config)[1]


def nncf_state(model):
    """The same state as NNCF 2.x names it: wrapped classes, pre-operations, external quantizers."""
    names = {
        "conv.nncf_ext_weight_mask_mask": "conv.pre_ops.0.op._binary_mask",
        "conv.nncf_ext_weight_quantizer_scale": "conv.pre_ops.1.op.scale",
        "head.nncf_ext_weight_mask_mask": "head.pre_ops.0.op._binary_mask",
        "head.nncf_ext_weight_quantizer_scale": "head.pre_ops.1.op.scale",
        "relu.nncf_ext_output_quantizer_scale": "_nncf.external_quantizers.Net/ReLU[relu]/relu_0|OUTPUT.scale",
        "nncf_ext_input_0_quantizer_scale": "_nncf.external_quantizers./nncf_model_input_0|OUTPUT.scale",
    }
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("scale") and value.numel() == 1:
            value = value.reshape(1)
        state[names.pop(name, name)] = value.clone()
    assert not names, names
    state["conv.pre_ops.1.op._num_bits"] = torch.tensor([8], dtype=torch.int32)
    state["_nncf.external_quantizers./nncf_model_input_0|OUTPUT.signed_tensor"] = torch.tensor([1])
    return state


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("prefix", ["", "module.", "nncf_module.", "module.nncf_module."])
def test_an_nncf_checkpoint(prefix):
    source, target = compressed(0), compressed(1)
    assert not same(source, target)
    state = {prefix + name: value for name, value in nncf_state(source).items()}
    assert load_state(target, state, is_resume=True) == len(source.state_dict())
    assert same(source, target)
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_an_nncf_checkpoint_of_movement_sparsity():
    """Importance and masks of weight and bias; NNCF keeps no thresholds there, so that not everything finds its place."""
    params = {"warmup_start_epoch": 1, "warmup_end_epoch": 2, "importance_regularization_factor": 1.0}
    entry = {"algorithm": "movement_sparsity", "params": {**params, "enable_structured_masking": False}}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 4, 4]}, "compression": entry})
    model = create_compressed_model(Net(), config)[1]
    op = "head.pre_ops.0.op"
    state = {
        f"{op}.weight_importance": torch.rand(2, 16),
        f"{op}.weight_ctx._binary_mask": (torch.arange(32.0) % 2).reshape(2, 16),
        f"{op}.bias_importance": torch.rand(2),
        f"{op}.bias_ctx._binary_mask": torch.tensor([1.0, 0.0]),
    }
    with pytest.warns(UserWarning, match="load_state: 4 tensors loaded"):
        assert load_state(model, state) == 4
    assert torch.equal(model.head.nncf_ext_weight_movement_mask_score, state[f"{op}.weight_importance"])
    with in_forward():
        assert model.head.bias[1] == 0 and (model.head.weight[:, ::2] == 0).all() and (model.head.weight[:, 1::2] != 0).all()


def test_an_nncf_checkpoint_where_the_logarithm_is_learned():
    """NNCF 2.x saved the scale itself, whatever it trained."""
    logarithms = {"weights": {"logarithm_scale": True}, "activations": {"logarithm_scale": True}}
    source, target = compressed(0), compressed(1, **logarithms)
    assert load_state(target, nncf_state(source), is_resume=True) == len(source.state_dict())
    x = torch.rand(3, 1, 4, 4)
    torch.testing.assert_close(source.eval()(x), target.eval()(x))


def test_a_compressed_checkpoint():
    source, target = compressed(0), compressed(1)
    assert load_state(target, source.state_dict(), is_resume=True) == len(source.state_dict())
    assert same(source, target)


def test_a_plain_checkpoint_leaves_the_transforms():
    target, plain = compressed(1), Net()
    scale = target.conv.nncf_ext_weight_quantizer_scale.clone()
    with pytest.warns(UserWarning, match=r"load_state: 4 tensors loaded; .*nncf_ext_.* is missing"):
        assert load_state(target, plain.state_dict()) == 4
    assert torch.equal(dict(target.named_parameters())["conv.weight"], plain.conv.weight)
    assert torch.equal(target.conv.nncf_ext_weight_quantizer_scale, scale)


def test_into_a_plain_model():
    plain = Net()
    with pytest.warns(UserWarning, match="load_state: 4 tensors loaded; .*: the model has no quantizer there"):
        assert load_state(plain, nncf_state(compressed())) == 4


def test_resuming_is_strict_and_all_or_nothing():
    target = compressed(1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = nncf_state(compressed(0))
    state["conv.weight"] = torch.zeros(5, 1, 3, 3)
    with pytest.raises(RuntimeError, match=r"conv.weight has shape \(5, 1, 3, 3\), the model's \(4, 1, 3, 3\) \(2 such"):
        load_state(target, state, is_resume=True)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    ignored = ["conv.weight"]
    assert load_state(target, state, is_resume=True, keys_to_ignore=ignored) == len(before) - 1


def test_another_signedness_or_width_is_told():
    with pytest.raises(RuntimeError, match="_num_bits: found bits 8, the model's quantizer has 4: set it in the config"):
        load_state(compressed(weights={"bits": 4}), nncf_state(compressed()), is_resume=True)
    state = nncf_state(compressed())
    state["_nncf.external_quantizers./nncf_model_input_0|OUTPUT.signed_tensor"] = torch.tensor([0])
    with pytest.raises(RuntimeError, match="signed_tensor: found signed False, the model's quantizer has True"):
        load_state(compressed(), state, is_resume=True)
