"""Weights that layers compute from other parameters: parametrizations, and the hooks of weight_norm, spectral_norm and prune."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from nncf_ext import ConfigError, NNCFConfig

INT8 = {"algorithm": "quantization"}
HALF = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return (w + w.flip(0)) / 2


def by_hook(function: Callable[..., Any]) -> Callable[..., nn.Module]:
    def apply(layer: nn.Module, name: str = "weight") -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch has newer ones
            return function(layer, name)

    return apply


def of_two(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "of the user": lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
    "of two": of_two,
    "old weight_norm": by_hook(nn.utils.weight_norm),
    "old spectral_norm": by_hook(nn.utils.spectral_norm),
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "prune twice": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.2), "weight", 0.2),
}
ALL = pytest.mark.parametrize("kind", KINDS)


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), KINDS[kind](nn.Conv2d(8, 16, 3)), KINDS[kind](nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x)).mean((2, 3))
        return self.head(x) * 2 + 1


def compressed(kind: str, entry: Any = HALF) -> tuple[Any, nn.Module]:
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 3, 8, 8]}, "compression": entry})
    torch.manual_seed(1)
    data = [(X, torch.zeros(2, dtype=torch.long))]
    return create_compressed_model(Net(kind), register_default_init_args(config, data, nn.CrossEntropyLoss()))


def step(model: nn.Module, weights: Callable[[str, Tensor], Tensor] = lambda name, w: w) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one training step, of a plain net with what `weights` makes of its layers' weights."""
    model.train()
    if isinstance(model, Net) and not hasattr(model, "_nncf_ext"):

        def layer(name: str, function: Callable[..., Tensor], x: Tensor) -> Tensor:
            module = model.get_submodule(name)
            for hook in module._forward_pre_hooks.values():
                hook(module, (x,))
            return function(x, weights(name, module.weight), module.bias)

        x = torch.relu(layer("second", F.conv2d, torch.relu(layer("first", F.conv2d, X)))).mean((2, 3))
        y = layer("head", F.linear, x) * 2 + 1
    else:
        y = model(X)
    y.square().sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@ALL
def test_transforms_are_of_what_the_layer_computes_with(kind: str) -> None:
    ctrl, model = compressed(kind)
    plain = Net(kind)
    masks = {name: model.get_submodule(name).nncf_ext_weight_mask_mask for name in ("first", "second", "head")}
    expected, gradients = step(plain, lambda name, w: w * masks[name])
    found, own = step(model)
    torch.testing.assert_close(found, expected)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, msg=name)
    report = ctrl.statistics()
    assert report.untouched is None and not report.skipped
    total = sum(plain.get_submodule(n).weight.numel() for n in masks) + 8 + 16 + 4
    zeros = sum(int((m == 0).sum()) for m in masks.values())
    assert report.magnitude_sparsity.sparsity_level == pytest.approx(zeros / total)
    assert report.magnitude_sparsity.sparsity_level_for_layers == pytest.approx(0.5, abs=0.01)
    for name, mask in (
        masks.items() if kind not in ("spectral_norm", "of two", "old spectral_norm") else ()
    ):  # they turn in training
        # masked are the smallest of what the layer computes with; spectral norms have moved since
        size = model.get_submodule(name).weight.abs()
        assert size[mask == 0].max() <= size[mask > 0].min() + 1e-6


@pytest.mark.parametrize(
    "kind, entry",
    [pytest.param(kind, HALF, marks=() if kind in ("orthogonal", "prune") else pytest.mark.slow) for kind in KINDS]
    + [pytest.param(kind, INT8, marks=() if kind == "old spectral_norm" else pytest.mark.slow) for kind in KINDS],
)
def test_strip_and_export(kind: str, entry: Any, tmp_path: Path) -> None:
    ctrl, model = compressed(kind, entry)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        step(model)
        optimizer.step()
    names = {name for name, _ in model.named_parameters()}
    expected = model.eval()(X).detach()
    plain = ctrl.strip()
    torch.testing.assert_close(plain(X).detach(), expected, rtol=1e-5, atol=1e-5)
    assert type(plain.second).__bases__[0] is nn.Conv2d or type(plain.second) is nn.Conv2d
    layers = ("first", "second", "head")
    assert {name for name, _ in plain.named_parameters()} == {f"{m}.{p}" for m in layers for p in ("weight", "bias")}
    ctrl.export_model(tmp_path / "model.onnx")
    found = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": X.numpy()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=0.02 if entry is not HALF else 1e-5)
    ctrl.pack(tmp_path / "model.packed")
    torch.testing.assert_close(model.eval()(X).detach(), expected)  # copies leave the model as it is
    assert {name for name, _ in model.named_parameters()} == names
    step(model)
    ctrl.strip(do_copy=False)
    assert not parametrize.is_parametrized(model) and not any(m._forward_pre_hooks for m in model.modules())
    assert model.second.weight is dict(model.named_parameters())["second.weight"]


@ALL
def test_save_and_resume(kind: str) -> None:
    ctrl, model = compressed(kind)
    step(model)
    expected = model.eval()(X)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 3, 8, 8]}, "compression": HALF})
    _, other = create_compressed_model(Net(kind), config, ctrl.get_compression_state())
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(X), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # torch's own
@pytest.mark.parametrize("kind", ["orthogonal", "old weight_norm"])
def test_under_compile(kind: str) -> None:
    torch._dynamo.reset()
    _, model = compressed(kind)
    expected, gradients = step(model)
    gradients = {name: g.clone() for name, g in gradients.items()}
    model.zero_grad()
    found, own = step(torch.compile(model, backend="aot_eager", fullgraph=kind == "orthogonal"))  # a hook's write breaks graphs
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[f"_orig_mod.{name}"], gradient, rtol=1e-4, atol=1e-5)


def test_pruned_filters_leave() -> None:
    entry = {"algorithm": "filter_pruning", "pruning_init": 0.5}
    ctrl, model = compressed("weight_norm", entry)
    expected = model.eval()(X).detach()
    plain = ctrl.strip()
    assert plain.second.weight.shape[0] == 8
    torch.testing.assert_close(plain(X).detach(), expected, rtol=1e-5, atol=1e-5)


def test_what_has_to_write_into_weights_says_that_it_cannot() -> None:
    entry = {"algorithm": "dynamic_sparse_training", "params": {"sparsity_target": 0.5, "method": "rigl", "end": 100}}
    ctrl, _ = compressed("weight_norm", entry)
    reasons = {name: reason for name, reason in ctrl.statistics().skipped}
    assert [n for n in reasons if "second" in n or "head" in n] and len(reasons) == 2
    assert all("rigl writes into weights" in r and "WeightNorm" in r for r in reasons.values())
    assert ctrl.statistics().untouched.weights == 16 * 8 * 9 + 16 * 4
    entry = {"algorithm": "weight_clustering", "params": {"weighting": "squared_gradients"}}
    with pytest.raises(ConfigError, match="hutchinson"):
        compressed("weight_norm", entry)


def test_copies_before_training() -> None:
    """torch's old hooks leave a tensor with a history in the layer, which `copy.deepcopy` refuses."""
    entry = [HALF, {"algorithm": "knowledge_distillation", "type": "mse"}]
    ctrl, model = compressed("old weight_norm", entry)
    step(model)
    assert torch.isfinite(ctrl.loss())
    averaged = copy.deepcopy(compressed("weight_norm")[1])
    torch.testing.assert_close(averaged(X), compressed("weight_norm")[1](X))


@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "prune"])
def test_recurrent_layers(kind: str, tmp_path: Path) -> None:
    how = {"weight_norm": parametrizations.weight_norm, "old weight_norm": by_hook(nn.utils.weight_norm)}.get(
        kind, lambda layer, name: prune.l1_unstructured(layer, name, 0.3)
    )
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 8, batch_first=True)
    how(lstm, "weight_hh_l0")
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 5, 4]}, "compression": HALF})
    ctrl, model = create_compressed_model(lstm, config)
    assert {edit.site.slot for edit in ctrl.plan} == {"weight_ih_l0", "weight_hh_l0"} and ctrl.statistics().untouched is None
    x = torch.randn(2, 5, 4)
    model(x)[0].sum().backward()
    plain = nn.LSTM(4, 8, batch_first=True)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(plain, name).copy_(getattr(model, name) * getattr(model, f"nncf_ext_{name}_mask_mask"))
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(plain, name).copy_(getattr(model, name))
    torch.testing.assert_close(model(x)[0], plain(x)[0])
    torch.testing.assert_close(ctrl.strip()(x)[0], plain(x)[0])
    ctrl.export_model(tmp_path / "model.onnx")
