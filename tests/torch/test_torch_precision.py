"""Choosing bits in PyTorch: products with the Hessian, files of tensors, loaders, the names of NNCF 2.x."""

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.adapter import TorchAdapter
from nncf_ext_torch.hessian import hessian_products
from torch import nn

from benchmarks.models_torch import resnet50
from nncf_ext import NNCFConfig
from nncf_ext.calibration.initialization import AutoQPrecisionInitArgs, QuantizationPrecisionInitArgs


class Attention(nn.Module):
    """Fused attention, an LSTM, BatchNorm, an in-place activation, a frozen and an unused weight."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.lstm, self.norm = nn.Linear(4, 12), nn.LSTM(4, 4, batch_first=True), nn.BatchNorm1d(4)
        self.head, self.unused = nn.Linear(4, 2), nn.Linear(2, 2)
        self.head.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.lstm(x)[0].mean(1)
        return self.head(torch.relu_(self.norm(x) + 0.1))


def test_products_are_the_derivative_of_the_gradient():
    torch.manual_seed(0)
    model = Attention().double()
    weights = [model.qkv.weight, model.lstm.weight_ih_l0, model.head.weight, model.unused.weight]
    x, y = torch.randn(6, 5, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    rng = np.random.default_rng(0)
    signs = [rng.integers(0, 2, tuple(weight.shape), np.int8) * 2 - 1 for weight in weights]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()

    products = hessian_products(model, weights, nn.functional.mse_loss, (x, y), signs)

    assert model.training and not model.head.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())

    def gradients(step: float) -> list[torch.Tensor]:
        with torch.no_grad():
            for weight, sign in zip(weights, signs, strict=True):
                weight += step * torch.from_numpy(sign)
        model.eval()
        model.head.weight.requires_grad_(True)
        found = torch.autograd.grad(nn.functional.mse_loss(model(x), y), weights[:3])
        with torch.no_grad():
            for weight, sign in zip(weights, signs, strict=True):
                weight -= step * torch.from_numpy(sign)
        return list(found)

    for product, up, down in zip(products, gradients(1e-5), gradients(-1e-5), strict=False):
        torch.testing.assert_close(product, (up - down) / 2e-5, rtol=1e-5, atol=1e-7)
    assert (products[3] == 0).all()


def test_a_loss_that_is_linear_has_no_second_derivative():
    model = nn.Linear(3, 1)
    (product,) = hessian_products(model, [model.weight], lambda out, _: out.sum(), (torch.ones(2, 3), None), [np.ones((1, 3))])
    assert (product == 0).all()


def test_files_of_tensors(tmp_path):
    adapter = TorchAdapter()
    torch.save(torch.tensor([1.0, 2.0]), tmp_path / "traces")
    assert adapter.data.read_tensor(tmp_path / "traces").tolist() == [1, 2]
    torch.save({"a": torch.ones(2)}, tmp_path / "dict.pt")
    with pytest.raises(ValueError, match="found a dict, expected a tensor"):
        adapter.data.read_tensor(tmp_path / "dict.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pt")
    with pytest.raises(ValueError, match="cannot read it as a file of tensors alone"):
        adapter.data.read_tensor(tmp_path / "code.pt")


def test_evaluation_gives_everything_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="user"), TorchAdapter().preserving_state(model):
        assert not torch.is_grad_enabled()
        model.train()(torch.randn(8, 2))
        with torch.no_grad():
            model[0].weight.zero_()
        raise RuntimeError("user")
    assert [module.training for module in model] == [False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class OwnLoader(list):
    """NNCF's PTInitializingDataLoader: it tells inputs and target apart by itself."""

    def get_inputs(self, batch):
        return (batch["image"],), {"scale": batch["scale"]}

    def get_target(self, batch):
        return batch["class"]


@pytest.mark.parametrize(
    "loader, target",
    [
        ([(torch.ones(2, 3), torch.tensor([1]))], torch.tensor([1])),
        ([{"input_ids": torch.ones(2, 3), "labels": torch.tensor([2])}], torch.tensor([2])),
        (OwnLoader([{"image": torch.ones(2, 3), "scale": 2, "class": torch.tensor([3])}]), torch.tensor([3])),
        ([torch.ones(2, 3)], None),
    ],
    ids=["pair", "mapping", "own", "bare"],
)
def test_targets_of_a_loader(loader, target):
    config = NNCFConfig()
    score = lambda model, loader: 1.0  # noqa: E731
    register_default_init_args(config, loader, criterion_fn=lambda o, t, c: (o, t, c), criterion="c", autoq_eval_fn=score)
    args = config.get_extra_struct(QuantizationPrecisionInitArgs)
    ((inputs, found),) = args.batches()
    assert found is None if target is None else torch.equal(found, target)
    assert inputs.kwargs.get("labels") is None
    assert args.loss(1, 2) == (1, 2, "c")
    assert config.get_extra_struct(AutoQPrecisionInitArgs) == AutoQPrecisionInitArgs(score, loader)


def test_without_a_criterion_nothing_is_registered():
    config = register_default_init_args(NNCFConfig(), [(torch.ones(2, 3), None)])
    assert not config.has_extra_struct(QuantizationPrecisionInitArgs) and not config.has_extra_struct(AutoQPrecisionInitArgs)


def nncf_names_of_a_resnet50() -> list[str]:
    """The quantizers in NNCF 2.14's own `resnet50_imagenet_mixed_int_manual.json`."""
    names = ["/nncf_model_input_0|OUTPUT", "ResNet/NNCFConv2d[conv1]/conv2d_0|WEIGHT", "ResNet/ReLU[relu]/relu__0|OUTPUT"]
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            scope = f"ResNet/Sequential[layer{layer}]/Bottleneck[{block}]"
            names += [f"{scope}/NNCFConv2d[conv{i}]/conv2d_0|WEIGHT" for i in (1, 2, 3)]
            names += [f"{scope}/ReLU[relu]/relu__{i}|OUTPUT" for i in (0, 1, 2)]
            names += [f"{scope}/NNCFBatchNorm2d[bn3]/batch_norm_0|OUTPUT"]
        names += [f"ResNet/Sequential[layer{layer}]/Bottleneck[0]/Sequential[downsample]/NNCFConv2d[0]/conv2d_0|WEIGHT"]
        names += [f"ResNet/Sequential[layer{layer}]/Bottleneck[0]/Sequential[downsample]/NNCFBatchNorm2d[1]/batch_norm_0|OUTPUT"]
    return [
        *names,
        "ResNet/AdaptiveAvgPool2d[avgpool]/adaptive_avg_pool2d_0|OUTPUT",
        "ResNet/NNCFLinear[fc]/linear_0|WEIGHT",
    ]


def test_bits_by_hand_with_the_names_of_nncf():
    names = nncf_names_of_a_resnet50()
    precision = {"bitwidth_per_scope": [[2 + index % 7, name] for index, name in enumerate(names)]}
    config = {
        "input_info": {"sample_size": [1, 3, 32, 32]},
        "target_device": "TRIAL",
        "compression": {"algorithm": "quantization", "initializer": {"precision": precision}},
    }
    ctrl, _ = create_compressed_model(resnet50(), NNCFConfig.from_dict(config))
    assert len(ctrl.plan) == len(names) == 125
    bits = [edit.transform.bits for edit in ctrl.plan]
    assert sorted(bits) == sorted(2 + index % 7 for index in range(125))
