"""Binarization in PyTorch: gradients against the hand-made ones, training on real data, stages, files."""

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args, xp
from nncf_ext_torch.forward_scope import in_forward
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.algorithms.binarization import BinaryActivation, BinaryWeight
from nncf_ext.tools import demo
from tests import binarization_reference as by_hand


def test_gradients():
    given, want = by_hand.example(), by_hand.activation(by_hand.example())
    tensors = {name: torch.from_numpy(value).requires_grad_(name != "g") for name, value in given.items()}
    y = BinaryActivation(threshold_axis=1).apply(xp, tensors["x"], tensors, True)
    y.backward(tensors["g"])
    np.testing.assert_array_equal(y.detach(), want.pop("y"))
    for name, value in want.items():
        np.testing.assert_allclose(tensors[name].grad, value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_weights():
    x, g = (torch.from_numpy(by_hand.example()[name]) for name in ("x", "g"))
    x.requires_grad_()
    y = BinaryWeight(channel_axis=1).apply(xp, x, {}, True)
    np.testing.assert_allclose(y.detach(), by_hand.weight(x.detach().numpy()), rtol=1e-6)
    y.backward(g)
    assert torch.equal(x.grad, g)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.Conv2d(48, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(48 * 16, 10)),
    )


@pytest.fixture(scope="module")
def digits():
    data = demo.load_digits()
    arrays = (data.train_images[:, None], data.train_labels, data.test_images[:, None], data.test_labels)
    return [torch.from_numpy(a) for a in arrays]


@pytest.fixture(scope="module")
def trained(digits):
    model = net()
    train(model, torch.optim.Adam(model.parameters(), 2e-3), digits, 4)
    return model


def train(model, optimizer, digits, epochs, ctrl=None):
    torch.manual_seed(1)
    for _ in range(epochs):
        model.train()
        if ctrl is not None:
            ctrl.scheduler.epoch_step()
        for rows in torch.randperm(len(digits[0])).split(64):
            if ctrl is not None:
                ctrl.scheduler.step()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits[0][rows]), digits[1][rows]).backward()
            optimizer.step()


def accuracy(model, digits):
    model.eval()
    with torch.no_grad():
        return float((model(digits[2]).argmax(1) == digits[3]).float().mean())


def compress(model, digits, state=None, **keys):
    initializer = {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    entry = {"algorithm": "binarization", "ignored_scopes": ["{re}Conv2d\\[0\\]"], "initializer": initializer, **keys}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 1, 8, 8]}, "compression": entry})
    register_default_init_args(config, [(digits[0][:40], digits[1][:40])])
    return create_compressed_model(model, config, state)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["xnor", "dorefa"])
def test_a_binary_network_learns(trained, digits, mode, tmp_path):
    ctrl, model = compress(copy.deepcopy(trained), digits, mode=mode)
    x = digits[2][:16]
    assert torch.equal(model.eval()(x), trained.eval()(x))  # begins in epoch 1
    assert ctrl.compression_stage() == 0
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    train(model, optimizer, digits, 1, ctrl)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, optimizer, digits, 7, ctrl)
    assert ctrl.compression_stage() == 2
    assert accuracy(model, digits) > 0.9

    learned = [name for name in weights if name.endswith(("log_scale", "logit"))]
    assert len(learned) == 4 and all((model.state_dict()[name] != weights[name]).any() for name in learned)
    report = ctrl.statistics().binarization
    assert (report.layers_binarized, report.weights_binarized) == (2, 24 * 48 * 9 + 48 * 48 * 9)

    parity = ctrl.export_model(tmp_path / "binary.onnx")
    assert parity.unoptimized < 1e-3
    session = ort.InferenceSession(tmp_path / "binary.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: digits[2].numpy()})[0]
    assert float((outputs.argmax(1) == digits[3].numpy()).mean()) == pytest.approx(accuracy(model, digits), abs=0.01)

    plain = ctrl.strip()
    for index in (3, 6):
        values = [len(channel.unique()) for channel in plain[index].weight.detach()]
        assert max(values) <= 2
        assert len(plain[index].weight.detach().abs().unique()) == (1 if mode == "dorefa" else len(values))


def computed_with(layer):
    with in_forward():
        return layer.weight.detach()


def test_groups_begin_in_their_epochs(trained, digits):
    ctrl, model = compress(
        copy.deepcopy(trained), digits, params={"activations_quant_start_epoch": 0, "weights_quant_start_epoch": 2}
    )
    assert ctrl.compression_stage() == 1
    model.eval()
    scale = model[3].nncf_ext_input_0_binary_activation_log_scale
    with torch.no_grad():
        seen = model[2](model[1](model[0](digits[0][:40])))
    assert float(scale.detach().exp()) == pytest.approx(float(np.percentile(seen.numpy(), 99.9)), rel=1e-3)
    assert len(computed_with(model[3]).unique()) > 48
    ctrl.scheduler.epoch_step(2)
    assert ctrl.compression_stage() == 2
    assert len(computed_with(model[3]).abs().unique()) == 48
    ctrl.disable_weight_quantization()
    assert len(computed_with(model[3]).unique()) > 96


def test_a_run_resumes_bit_for_bit(trained, digits, tmp_path):
    ctrl, model = compress(copy.deepcopy(trained), digits)
    few = [d[:256] for d in digits]
    train(model, torch.optim.SGD(model.parameters(), 0.01), few, 2, ctrl)
    ctrl.save_checkpoint(tmp_path / "two.safetensors")
    train(model, torch.optim.SGD(model.parameters(), 0.01), few, 1, ctrl)
    other, resumed = compress(net(), digits, state=ctrl.get_compression_state())
    other.load_checkpoint(tmp_path / "two.safetensors")
    train(resumed, torch.optim.SGD(resumed.parameters(), 0.01), few, 1, other)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True))
