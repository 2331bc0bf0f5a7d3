"""What a compressed model keeps for the backward pass, and that gradients do not depend on it."""

import copy

import pytest
import torch
from nncf_ext_torch import create_compressed_model, kernels, native, saved_tensors
from torch import nn
from torch.utils.checkpoint import checkpoint

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.skipif(native.library() is None, reason="the compiled kernel was not built")


class Net(nn.Module):
    """Tensors large enough for recipes: weights of convolution and linear layer, and what a Relu keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 512, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(512, 256)

    def forward(self, x):
        return self.head(self.second(self.relu(self.first(x))).mean((2, 3)))


def compressed():
    torch.manual_seed(0)
    config = {"input_info": {"sample_size": [2, 3, 48, 48]}, "compression": {"algorithm": "quantization"}}
    return create_compressed_model(Net(), NNCFConfig.from_dict(config))[1].train()


X = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def gradients(model, forward=None):
    (forward or model)(X).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def without_recipes(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_A_RECIPE", 1 << 60)


def test_gradients_are_the_same_bits(monkeypatch):
    model = compressed()
    plain = copy.deepcopy(model)
    packed = []
    pack = saved_tensors._pack
    monkeypatch.setattr(saved_tensors, "_pack", lambda t: (packed.append(p := pack(t)), p)[1])
    ours = gradients(model)
    assert sum(isinstance(p, saved_tensors._Packed) for p in packed) == 3  # two weights (one transposed), the Relu's output
    without_recipes(monkeypatch)
    theirs = gradients(plain)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def held_after_forward(model):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        y = model(X)
    del y
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_quantized_weights_and_activations_are_not_kept(monkeypatch):
    model = compressed()
    model(X)
    ours = held_after_forward(model)
    without_recipes(monkeypatch)
    theirs = held_after_forward(model)
    copies = model.second._parameters["weight"].nbytes + model.head._parameters["weight"].nbytes + 2 * 16 * 48 * 48 * 4
    assert theirs - ours == copies


@pytest.mark.parametrize("way", ["checkpoint", "save_on_cpu"])
def test_the_users_own_ways_to_keep_tensors_go_first(way):
    model = compressed()
    expected = gradients(copy.deepcopy(model))

    def forward(x):
        if way == "checkpoint":
            return checkpoint(model, x, use_reentrant=False)
        with torch.autograd.graph.save_on_cpu():
            return model(x)

    for name, gradient in gradients(model, forward).items():
        assert torch.equal(gradient, expected[name]), name


def test_a_tensor_that_was_written_into_has_no_recipe():
    x = nn.Parameter(0.9 * torch.tanh(torch.randn(512, 256)))  # inside the grid
    scale = torch.ones(512, 1)
    y = kernels.fake_quantize_symmetric(x, scale, -64, 63)
    before = y.detach().clone()
    with saved_tensors.recomputing_saved():
        y.mul_(2)
        z = y.square()  # keeps y
    z.sum().backward()
    assert torch.equal(x.grad, 8 * before)
