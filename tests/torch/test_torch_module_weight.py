"""`layer.weight` of a compressed model: the parameter for whoever reads it outside a forward, what was made of it inside."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch import create_compressed_model
from torch import Tensor, nn

from nncf_ext import NNCFConfig

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor needs a compiler")
HALF = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5}


class Reader(nn.Module):
    """Computes with its child's weight, and with that of a layer that is not its own."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__()
        self.child = nn.Linear(8, 8)
        self.other = [other]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.child(x), self.child.weight) + F.linear(x, self.other[0].weight)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 8)
        self.first = nn.Linear(8, 8)
        self.reader = Reader(self.first)
        self.decode = nn.Linear(8, 6, bias=False)
        self.decode.weight = self.table.weight

    def forward(self, tokens: Tensor, fail: bool = False) -> Tensor:
        x = self.reader(self.first(self.table(tokens)))
        if fail:
            raise KeyError("in the middle")
        return self.decode(x) + F.linear(x, self.table.weight)


TOKENS = torch.arange(6).reshape(2, 3)


def compressed(entry: Any = HALF) -> tuple[Any, Net]:
    torch.manual_seed(0)
    config = {"input_info": {"sample_size": [2, 3], "type": "long"}, "compression": entry}
    return create_compressed_model(Net(), NNCFConfig.from_dict(config))


def by_hand(model: Net, tokens: Tensor = TOKENS) -> Tensor:
    """The model's output, written out with masks."""
    p = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def masked(name: str) -> Tensor:
        return p[f"{name}.weight"] * p[f"{name}.nncf_ext_weight_mask_mask"]

    x = F.linear(masked("table")[tokens], masked("first"), p["first.bias"])
    x = F.linear(F.linear(x, masked("reader.child"), p["reader.child.bias"]), masked("reader.child")) + F.linear(
        x, masked("first")
    )
    return 2 * F.linear(x, masked("table"))


def weights(model: Net) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.endswith("weight")}


def test_optimizer_groups_made_by_walking_modules_train_everything() -> None:
    _, model = compressed()
    found = [m.weight for m in model.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]
    assert {id(w) for w in found} == {id(p) for p in weights(model).values()} and len(weights(model)) == 3
    before = {name: p.detach().clone() for name, p in weights(model).items()}
    optimizer = torch.optim.SGD(list(dict.fromkeys(found)), 0.1)
    model.train()(TOKENS).square().mean().backward()
    assert model.first.weight.grad is weights(model)["first.weight"].grad is not None
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in weights(model).items())


def test_all_reads_in_a_forward_are_of_the_transformed_weight() -> None:
    _, model = compressed()
    torch.testing.assert_close(model(TOKENS), by_hand(model), rtol=0, atol=1e-6)
    x = torch.randn(4, 8)
    mask = model.reader.child.nncf_ext_weight_mask_mask * model.reader.child.weight  # a part of the model that is run by itself
    expected = F.linear(F.linear(x, mask, model.reader.child.bias), mask)
    expected = expected + F.linear(x, model.first.nncf_ext_weight_mask_mask * model.first.weight)
    torch.testing.assert_close(model.reader(x), expected, rtol=0, atol=1e-6)
    assert model.reader.child.weight is weights(model)["reader.child.weight"]


def test_writing_into_the_weight() -> None:
    ctrl, model = compressed()
    raw, mask = weights(model)["first.weight"], model.first.nncf_ext_weight_mask_mask
    with torch.no_grad():
        model.first.weight.clamp_(-0.01, 0.01)
    assert float(raw.detach().abs().max()) == pytest.approx(0.01)
    nn.init.constant_(model.first.weight, 2.0)
    assert raw.eq(2).all()
    model.first.weight.data = torch.full((8, 8), 5.0)
    assert raw.eq(5).all()
    model.first.weight.data.fill_(7.0)
    assert raw.eq(7).all()
    model.first.weight = nn.Parameter(torch.full((8, 8), 3.0))
    assert weights(model)["first.weight"].eq(3).all() and raw.eq(7).all()
    torch.testing.assert_close(model(TOKENS), by_hand(model), rtol=0, atol=1e-5)
    assert torch.equal(ctrl.strip_model(model, do_copy=True).first.weight, 3.0 * mask)
    model.first.weight.requires_grad_(False)
    model(TOKENS).sum().backward()
    assert model.first.weight.grad is None and model.reader.child.weight.grad is not None
    with pytest.raises(TypeError, match="cannot assign"):
        model.first.weight = torch.zeros(8, 8)  # type: ignore[assignment]  # as of any module


def test_an_error_in_a_forward_leaves_the_weight_a_parameter() -> None:
    _, model = compressed()
    with pytest.raises(KeyError, match="in the middle"):
        model(TOKENS, fail=True)
    assert model.first.weight is weights(model)["first.weight"]


def test_other_threads_see_the_parameter_while_one_runs_a_forward() -> None:
    _, model = compressed()
    inside, looked = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        inside.set()
        looked.wait(10)

    model.first.register_forward_hook(wait)
    outputs: list[Tensor] = []
    thread = threading.Thread(target=lambda: outputs.append(model(TOKENS)))
    thread.start()
    inside.wait(10)
    seen = model.first.weight
    looked.set()
    thread.join()
    assert seen is weights(model)["first.weight"]
    torch.testing.assert_close(outputs[0], by_hand(model), rtol=0, atol=1e-6)


def test_replicas_compute_as_the_model_does() -> None:
    """As `DataParallel` makes them: modules without parameters, with tensors under their names."""
    _, model = compressed()
    replica: Any = model.first._replicate_for_data_parallel()
    for name, parameter in model.first.named_parameters():
        setattr(replica, name, parameter * 1)
    x = torch.randn(4, 8)
    assert torch.equal(replica(x), model.first(x)) and not list(replica.parameters())
    replica(x).sum().backward()
    assert model.first.weight.grad is not None
    del replica.weight
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'weight'"):
        _ = replica.weight


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(copied: Any) -> None:
    _, model = compressed()
    other = copied(model)
    assert other.first.weight is weights(other)["first.weight"] is not model.first.weight
    assert other.decode.weight is other.table.weight
    torch.testing.assert_close(other(TOKENS), model(TOKENS), rtol=0, atol=0)
    with torch.no_grad():
        other.first.weight.zero_()
    torch.testing.assert_close(model(TOKENS), by_hand(model), rtol=0, atol=1e-6)


def test_functional_call_transforms_what_it_is_given() -> None:
    _, model = compressed()
    doubled = {name: 2 * p.detach() for name, p in model.named_parameters()}
    output = torch.func.functional_call(model, doubled, (TOKENS,))
    with torch.no_grad():
        for p in model.parameters():
            p *= 2
    torch.testing.assert_close(output, by_hand(model), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])])
def test_compiled_as_eager(backend: str) -> None:
    """In one graph; a read outside the forward is of the parameter in compiled code too."""
    torch._dynamo.reset()
    _, model = compressed()

    def step(tokens: Tensor) -> Tensor:
        return model(tokens).square().mean() + 0.1 * model.first.weight.square().sum()

    results = []
    for function in (step, torch.compile(step, backend=backend, fullgraph=True)):
        model.zero_grad()
        loss = function(TOKENS)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) == 6
    for eager, by_compiler in zip(*results, strict=True):
        torch.testing.assert_close(by_compiler, eager, rtol=1e-5, atol=1e-6)
    assert model.first.weight is weights(model)["first.weight"]


def test_only_readers_are_touched() -> None:
    _, model = compressed()
    edited = {name for name, module in model.named_modules() if hasattr(module, "_nncf_ext")}
    assert edited == {"", "table", "first", "reader", "reader.child", "decode"}
    plain = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    config = {"input_info": {"sample_size": [1, 4]}, "compression": HALF}
    _, plain = create_compressed_model(plain, NNCFConfig.from_dict(config))
    assert type(plain[0]) is nn.Sequential and type(plain[0][1]) is nn.ReLU
    assert {name for name, module in plain.named_modules() if hasattr(module, "_nncf_ext")} == {"", "0.0", "1"}
