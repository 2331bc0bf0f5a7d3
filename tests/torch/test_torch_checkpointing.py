"""Gradient checkpointing: gradients are those without it, whatever of the model is edited and however it is run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad:UserWarning",  # of one in another, without gradients
    "ignore:.*gradient_checkpointing_enable:FutureWarning",
)
INT8 = {"algorithm": "quantization"}
RB = {"algorithm": "rb_sparsity", "sparsity_init": 0.3}
Run = Callable[..., Any]  # (function, *arguments): runs it, with or without a checkpoint


def plainly(function: Any, *args: Any) -> Any:
    return function(*args)


def reentrant(function: Any, *args: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=True)


def not_reentrant(function: Any, *args: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=False)


BOTH = pytest.mark.parametrize("run", [reentrant, not_reentrant])


class Net(nn.Module):
    """Functional operators, a shared module and reads of other modules' weights in pieces that are run again, one in another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4), nn.ReLU()
        self.run: Run = plainly

    def inner(self, x: Tensor) -> Tensor:
        return F.linear(self.relu(x), self.b.weight) @ x.T @ x

    def outer(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(x))
        x = self.run(self.inner, x)
        return F.dropout(self.relu(x), 0.2, self.training) + torch.tanh(x)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = self.run(self.outer, x)
        return self.c(F.relu(x) + self.run(self.inner, x))


X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 4


def compressed(model: nn.Module, entry: Any, inputs: Any, target: Any = Y) -> Any:
    config = NNCFConfig.from_dict({"compression": entry})
    return create_compressed_model(model, register_default_init_args(config, [(inputs, target)]))[1].train()


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    loss().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and any(g.any() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@BOTH
@pytest.mark.parametrize("entry", [INT8, RB, [RB, INT8]], ids=str)
def test_pieces_of_a_forward(run: Run, entry: Any) -> None:
    torch.manual_seed(0)
    model = compressed(Net(), entry, X)
    expected = gradients(model, lambda: F.cross_entropy(model(X), Y))
    model.run = run
    check_same(gradients(model, lambda: F.cross_entropy(model(X), Y)), expected)
    check_same(gradients(model, lambda: F.cross_entropy(run(model, X.clone().requires_grad_()), Y)), expected)


@BOTH
def test_two_forwards_before_the_backward_and_other_counts_in_between(run: Run) -> None:
    torch.manual_seed(0)
    model = compressed(Net(), INT8, X)
    loss = lambda: F.cross_entropy(model(X), Y) + 2 * F.cross_entropy(model(X.flip(0)), Y)  # noqa: E731
    expected = gradients(model, loss)
    model.run = run
    check_same(gradients(model, loss), expected)


@BOTH
def test_an_error_in_the_recomputation_leaves_nothing_behind(run: Run) -> None:
    torch.manual_seed(0)
    model = compressed(Net(), INT8, X)
    expected = gradients(model, lambda: F.cross_entropy(model(X), Y))
    model.run, calls = run, []

    def fail_when_run_again(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("again")

    hook = model.b.register_forward_hook(fail_when_run_again)
    with pytest.raises(KeyError, match="again"):
        F.cross_entropy(model(X), Y).backward()
    hook.remove()
    assert model.b.weight is dict(model.named_parameters())["b.weight"]
    check_same(gradients(model, lambda: F.cross_entropy(model(X), Y)), expected)


class Segments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()  # one for all
        self.first = nn.Linear(6, 8)
        self.layers = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(8, 8), relu)))
        self.reentrant: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.reentrant is None:
            return self.layers(x)
        return checkpoint_sequential(list(self.layers), 2, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_sequential(use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = compressed(Segments(), [RB, INT8], X)
    expected = gradients(model, lambda: model(X).square().mean())
    model.reentrant = use_reentrant
    check_same(gradients(model, lambda: model(X).square().mean()), expected)


def transformer(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = torch.arange(16).reshape(2, 8) % 32
    if kind == "bert":
        config: Any = transformers.BertConfig(vocab_size=32, max_position_embeddings=8, **sizes)
        return transformers.BertForSequenceClassification(config), {"input_ids": tokens, "labels": torch.tensor([0, 1])}
    if kind == "vit":
        config = transformers.ViTConfig(image_size=8, patch_size=4, **sizes)
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return transformers.ViTForImageClassification(config), {"pixel_values": images, "labels": torch.tensor([0, 1])}
    config = transformers.LlamaConfig(vocab_size=32, max_position_embeddings=8, use_cache=False, **sizes)
    return transformers.LlamaForCausalLM(config), {"input_ids": tokens, "labels": tokens}


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("kind", ["bert", "vit", "llama"])
def test_transformers(kind: str, use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model, batch = transformer(kind)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    model = compressed(model, [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}, INT8], inputs, batch["labels"])
    expected = gradients(model, lambda: model(**batch).loss)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    check_same(gradients(model, lambda: model(**batch).loss), expected)
