"""The demo's network in a user's own loop: what a resumed run computes, and what a failed start leaves behind."""

import json

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.demo import DigitsNet

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import demo

STEPS = 2


@pytest.fixture(scope="module")
def batches():
    data = demo.load_digits()
    images, labels = torch.from_numpy(data.train_images[:, None]), torch.from_numpy(data.train_labels)
    return list(zip(images[:192].split(32), labels[:192].split(32), strict=True))


def demo_config(batches):
    with demo.config_file() as path:
        return register_default_init_args(NNCFConfig.from_json(path), batches)


def train(ctrl, model, optimizer, batches, epochs):
    losses = []
    for epoch in epochs:
        model.train()
        ctrl.scheduler.epoch_step()
        for x, y in batches[epoch * STEPS : (epoch + 1) * STEPS]:
            ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y) + ctrl.loss()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_a_resumed_run_takes_the_same_steps_bit_for_bit(batches, tmp_path):
    """As a user saves: state dicts of model and optimizer by torch.save, and the compression state, which is JSON."""
    torch.manual_seed(0)
    teacher = DigitsNet()
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    ctrl, model = create_compressed_model(teacher, demo_config(batches))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    train(ctrl, model, optimizer, batches, range(1))
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": json.dumps(ctrl.get_compression_state())}
    torch.save(saved, tmp_path / "epoch1.pt")
    expected = train(ctrl, model, optimizer, batches, range(1, 3))

    saved = torch.load(tmp_path / "epoch1.pt", weights_only=True)
    torch.manual_seed(1)
    fresh, teacher = DigitsNet(), DigitsNet()
    teacher.load_state_dict(weights)
    ctrl, resumed = create_compressed_model(fresh, demo_config(batches), json.loads(saved["state"]), teacher=teacher.eval())
    resumed.load_state_dict(saved["model"])
    optimizer = torch.optim.Adam(resumed.parameters(), 1e-3)
    optimizer.load_state_dict(saved["optimizer"])
    assert train(ctrl, resumed, optimizer, batches, range(1, 3)) == expected
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_failing_adaptation_leaves_the_plain_model(batches):
    model = DigitsNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = {"compression": {"algorithm": "magnitude_sparsity"}}
    wrong = [batches[0], (torch.zeros(32, 3, 8, 8), batches[0][1])]
    with pytest.raises(ConfigError, match="batch-norm adaptation: the model does not run on the data loader's inputs"):
        create_compressed_model(model, register_default_init_args(NNCFConfig.from_dict(config), wrong))
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {n: v.tolist() for n, v in before.items()}
    create_compressed_model(model, demo_config(batches))


class Odd(torch.nn.Module):
    """With operators that ONNX does not have, one of them with weights."""

    def __init__(self):
        super().__init__()
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 5))
        self.first, self.second = torch.nn.Linear(5, 2), torch.nn.Linear(2, 2)
        self.table, self.left_over = torch.nn.Parameter(torch.randn(1, 5)), torch.nn.Linear(3, 7)

    def forward(self, x):
        x = torch.fft.fft(self.normed(x) * self.table).real
        return self.second(self.first(x) + torch.outer(self.first.weight[:, 0], self.first.bias).sum(0))


def test_what_is_not_compressed_is_reported_with_the_reason():
    entry = {"algorithm": "quantization", "ignored_scopes": r"{re}\[first\]"}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [3, 1, 4]}, "compression": entry})
    ctrl, model = create_compressed_model(Odd(), config)
    skipped = dict(ctrl.statistics().skipped)
    assert skipped == {
        "Odd/Linear[first]/linear_0": "outside the scopes of quantization",
        "Odd/fft_fft_0": "fft_fft: no operator of ONNX",
        "Odd/__get___0": "real: no operator of ONNX",
        "Odd/outer_0": "outer: no operator of ONNX",
        "left_over.weight": "no operator that is known was seen to read it",
    }
    assert all(name in str(ctrl.statistics()) for name in skipped)
    left = ctrl.statistics().untouched
    assert left is not None and left.weights == 10 + 21 and left.share == (10 + 21) / (20 + 10 + 21 + 4)
    model(torch.randn(3, 1, 4)).sum().backward()
