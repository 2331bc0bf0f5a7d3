"""Second derivatives, and torch.func: with plain operators they are right, with kernels they are refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model, register_default_init_args, twice_differentiable, xp
from torch import Tensor, nn

from nncf_ext import NNCFConfig, numerics

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(1))
ALGORITHMS = {
    "int8": {"algorithm": "quantization"},
    "asymmetric": {"algorithm": "quantization", "activations": {"mode": "asymmetric"}, "weights": {"mode": "asymmetric"}},
    "rb": {"algorithm": "rb_sparsity", "sparsity_init": 0.05},
    "clustering": {"algorithm": "weight_clustering", "params": {"clusters": 32}},
}


def compressed(algorithm: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    config = NNCFConfig.from_dict({"compression": ALGORITHMS[algorithm]})
    _, model = create_compressed_model(copy.deepcopy(plain), register_default_init_args(config, [(X, Y)]))
    return plain, model.eval()


def hessian_product(model: nn.Module) -> list[Tensor]:
    parameters = [model[0].weight, model[2].weight]
    gradients = torch.autograd.grad(F.cross_entropy(model(X), Y), parameters, create_graph=True)
    return list(torch.autograd.grad(sum(g.sum() for g in gradients), parameters))


def penalty(model: nn.Module) -> list[Tensor]:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).logsumexp(1).sum(), x, create_graph=True)
    return list(torch.autograd.grad(gradient.square().sum(), [model[0].weight, model[2].weight]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("derivative", [hessian_product, penalty])
def test_second_derivatives_are_near_those_of_the_float_model_or_refused(algorithm: str, derivative: Any) -> None:
    plain, model = compressed(algorithm)
    with twice_differentiable():
        found = derivative(model)
    if algorithm in ("rb", "clustering") and derivative is penalty:  # of a weight it needs the first derivative only
        for a, b in zip(derivative(model), found, strict=True):
            torch.testing.assert_close(a, b)
    else:
        with pytest.raises(RuntimeError, match="twice_differentiable"):
            derivative(model)
    if algorithm in ("int8", "asymmetric"):
        for a, b in zip(derivative(plain), found, strict=True):
            assert float(F.cosine_similarity(a.flatten(), b.flatten(), 0)) > 0.85  # clipped elements have none
    assert all(torch.isfinite(x).all() for x in found)


def test_weights_that_are_computed_again_are_not_constants() -> None:
    torch.manual_seed(0)
    entry = {"algorithm": "quantization", "activations": {"ignored_scopes": ["{re}.*"]}}
    x = torch.randn(4, 256, requires_grad=True)
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entry}), [(x.detach(), Y[:4])])
    _, model = create_compressed_model(nn.Sequential(nn.Linear(256, 300), nn.Tanh()), config)
    found = []
    for around in (nullcontext, twice_differentiable):
        with around():
            (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        found += torch.autograd.grad(gradient.square().sum(), model[0].weight)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(*found)


def test_by_hand() -> None:
    """d2/dx2 of y^3 is 6 y where y = Q(x) is within the grid, by the straight-through estimate; the grid's end has none."""
    x = torch.tensor([0.31, -0.18, 5.0], requires_grad=True)
    with twice_differentiable():
        y = numerics.fake_quantize_symmetric(xp, x, torch.tensor(1.27), -127, 127)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first.detach(), torch.tensor([3 * 0.31**2, 3 * 0.18**2, 0.0]))
    torch.testing.assert_close(second, torch.tensor([6 * 0.31, -6 * 0.18, 0.0]))


def test_first_derivatives_with_a_graph_are_the_same_bits() -> None:
    _, model = compressed("int8")
    parameters = list(model.parameters())
    found = [
        torch.autograd.grad(F.cross_entropy(model(X), Y), parameters, create_graph=graph, allow_unused=True)
        for graph in (False, True)
    ]
    assert all(a is b or torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_of_functional_calls(algorithm: str) -> None:
    _, model = compressed(algorithm)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, values, (X,)), Y)

    found = torch.func.grad(loss)(parameters)
    F.cross_entropy(model(X), Y).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-2, atol=1e-5)
