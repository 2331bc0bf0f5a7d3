"""Product codes of convolutions in PyTorch: error correction, look-up tables, training, files."""

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import ConfigError, NNCFConfig, packed
from nncf_ext.algorithm import CompressionStage
from nncf_ext.coding.product_codes import Layout, convolution_response, linear_response

IMAGES = torch.randn(48, 4, 9, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions of every kind of pads; the head reads all of them."""

    def __init__(self, zeros: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.strided = nn.Conv2d(4, 16, 3, 2, (1, 0))
        self.same = nn.Conv2d(16, 16, (3, 2), padding="same", dilation=(1, 2))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.line = nn.Conv1d(16, 24, 3, dilation=2)
        self.head = nn.Linear(24, 40)
        if zeros:
            for layer in (self.strided, self.same, self.head):
                layer.weight.data *= torch.rand(layer.weight.shape) >= zeros

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.strided(x))
        x = torch.relu(x + self.same(x))
        x = torch.relu(self.depthwise(x)).flatten(2)
        return self.head(torch.relu(self.line(x)).mean(2))


def compressed(model=None, others=(), **params):
    own = {"algorithm": "product_quantization", "params": {"conv": {"codewords": 12}, "linear": {"codewords": 6}, **params}}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4, 9, 8]}, "compression": [*others, own]})
    samples = torch.utils.data.TensorDataset(IMAGES, torch.zeros(len(IMAGES)))
    register_default_init_args(config, torch.utils.data.DataLoader(samples, 16))
    return create_compressed_model(model or Net(), config)


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_error_correction_keeps_the_responses():
    want = outputs(Net())
    ctrl, corrected = compressed()
    plain, by_weights = compressed(error_correction=False)
    assert (outputs(corrected) - want).square().sum() < 0.7 * (outputs(by_weights) - want).square().sum()
    report = ctrl.statistics().product_quantization
    assert [layer.name.split("/")[1] for layer in report.layers] == [
        "Conv2d[strided]",
        "Conv2d[same]",
        "Conv1d[line]",
        "Linear[head]",
    ]
    assert all(0 < layer.error <= layer.error_of_k_means for layer in report.layers) and not report.not_corrected
    assert report.coded and report.times_smaller > 3 and report.times_fewer > 1
    assert "in groups" in dict(ctrl.plan.skipped)["Net/Conv2d[depthwise]/conv2d_0"]
    assert all(layer.error is None for layer in plain.statistics().product_quantization.layers)


def test_the_first_errors_are_those_of_the_model():
    """Relative squared error of the first layer's responses, by what the layers really give."""
    ctrl, model = compressed()
    with torch.no_grad():
        bias = model.strided.bias[:, None, None]
        want, got = Net().strided(IMAGES) - bias, model.strided(IMAGES) - bias
    first = ctrl.statistics().product_quantization.layers[0]
    assert first.error == pytest.approx(float((got - want).square().sum() / want.square().sum()), rel=1e-3)


def test_look_up_tables_compute_what_the_model_does():
    ctrl, model = compressed()
    by_node = {edit.site.node.split("[")[-1].split("]")[0]: ctrl.variable_values(edit) for edit in ctrl.plan}

    def codes(name, shape):
        own = by_node[name]
        return own["codebook"], Layout(shape, 1, (0,)).in_positions(own["codes"])

    x = IMAGES.numpy().transpose(0, 2, 3, 1)
    found = convolution_response(x, *codes("strided", (16, 4, 3, 3)), (3, 3), (2, 2), (1, 0, 1, 0), (1, 1))
    with torch.no_grad():
        want = (model.strided(IMAGES) - model.strided.bias[:, None, None]).numpy().transpose(0, 2, 3, 1)
        pooled = torch.randn(5, 24)
        of_head = (model.head(pooled) - model.head.bias).numpy()
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear_response(pooled.numpy(), *codes("head", (40, 24))), of_head, rtol=1e-4, atol=1e-5)


def test_code_books_are_trained_and_written(tmp_path):
    """After the start the weight has no gradient; zeros stay; the packed file has codes, the ONNX file what they stand for."""
    ctrl, model = compressed(Net(0.3), [{"algorithm": "const_sparsity"}], start_epoch=1)
    assert not ctrl.statistics().product_quantization.coded
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    target = torch.randn(48, 40, generator=torch.Generator().manual_seed(1))
    losses, zeros = [], Net(0.3).same.weight == 0
    for epoch in range(2):
        ctrl.scheduler.epoch_step()
        for _ in range(6):
            ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = (model.train()(IMAGES) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert bool((dict(model.named_parameters())["same.weight"].grad != 0).any()) == (epoch == 0)
    assert losses[-1] < losses[6]
    assert ctrl.compression_stage() == CompressionStage.FULLY_COMPRESSED
    plain = ctrl.strip()
    assert zeros.float().mean() > 0.2 and ((plain.same.weight == 0) == zeros).all()
    ctrl.pack(tmp_path / "x.ncp")
    for name, value in plain.state_dict().items():
        np.testing.assert_array_equal(packed.load(tmp_path / "x.ncp", [name])[name], value.numpy())
    assert packed.Packed(tmp_path / "x.ncp").codec("same.weight").startswith("product")
    assert ctrl.export_model(tmp_path / "x.onnx").difference < 1e-4


def test_data_that_do_not_fit():
    model = Net()
    model.strided.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"strided.*weight has NaN or infinite values, expected numbers"):
        compressed(model)
    assert type(model) is Net
    config = NNCFConfig.from_dict(
        {"input_info": {"sample_size": [1, 4, 9, 8]}, "compression": {"algorithm": "product_quantization"}}
    )
    with pytest.raises(ConfigError, match="error correction: the data loader gave no batch"):
        create_compressed_model(Net(), register_default_init_args(config, []))
