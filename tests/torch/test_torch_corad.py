"""CORAD in PyTorch: what switching terms off leaves, exact zeros, terms apart, tables of latencies."""

import copy
import json

import pytest
import torch
from nncf_ext_torch import create_compressed_model
from torch import nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.algorithm import CompressionStage

X, Y = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
MATCHING = {"type": "kl", "temperature": 2, "weight": 0.5}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def compressed(regularization=None, distillation=None, others=(), model=None, **keys):
    entry = {"algorithm": "corad", **keys}
    entry |= {"regularization": regularization} if regularization else {}
    entry |= {"distillation": distillation} if distillation else {}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 6]}, "compression": [entry, *others]})
    return create_compressed_model(model or net(), config)


def train(model, ctrl=None, steps=20, rate=0.1):
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-3)
    losses = []
    for step in range(steps):
        model.train()
        if ctrl is not None:
            if step % 5 == 0:
                ctrl.scheduler.epoch_step()
            ctrl.scheduler.step()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss = loss if ctrl is None else ctrl.total_loss(loss)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("when", ["weights of 0", "in the warm-up", "no terms"])
def test_switched_off_it_is_plain_training_bit_for_bit(when):
    plain = net()
    losses = train(plain)
    waiting = {"warmup_epochs": 9} if when == "in the warm-up" else {}
    weight = 0 if when == "weights of 0" else 2
    terms = (
        ()
        if when == "no terms"
        else ({"type": "l1", "proximal_step": 0.1, "weight": weight, **waiting}, {**MATCHING, "weight": weight, **waiting})
    )
    ctrl, model = compressed(*terms)
    assert train(model, ctrl) == losses
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert torch.equal(model.eval()(X), plain.eval()(X))
    if when == "in the warm-up":
        with pytest.warns(UserWarning, match="corad has not reached its target: found the factors 0 of 2 for regularization"):
            stripped = ctrl.strip()
    else:
        stripped = ctrl.strip()
    for ours, theirs in zip(stripped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (ctrl._teacher is not None) == (when == "in the warm-up")


@pytest.mark.parametrize("kind", ["l1", "group_lasso"])
def test_proximal_steps_make_exact_zeros(kind, tmp_path):
    ctrl, model = compressed({"type": kind, "weight": 10, "proximal_step": 0.1}, MATCHING)
    train(model, ctrl, 60)
    report = ctrl.statistics().corad
    stripped = ctrl.strip()
    weights = [stripped[0].weight, stripped[2].weight]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert report.sparsity_level_for_layers == zeros / 108 and 108 > zeros > 10
    if kind == "group_lasso":
        assert all(bool(((w == 0).all(1) == (w == 0).any(1)).all()) for w in weights)  # whole channels
    assert report.regularizer > 0 and (report.regularization_weight, report.distillation_weight) == (10, 0.5)
    assert torch.equal(stripped.eval()(X), model.eval()(X))
    ctrl.export_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("wrapped", [False, True], ids=["optimizer", "optimizer within an optimizer"])
def test_a_proximal_step_follows_each_step_of_the_optimizer_once(wrapped):
    """As in a loop that makes both by hand: sign(w) * max(|w| - 0.1 * 10 / 108, 0)."""

    class Outer(torch.optim.Optimizer):
        """Steps by another one, as ZeroRedundancyOptimizer does."""

        def __init__(self, parameters):
            self.inner = torch.optim.SGD(parameters, 0.1)
            super().__init__(self.inner.param_groups, {})

        def step(self, closure=None):
            self.inner.step()

    ctrl, model = compressed({"type": "l1", "weight": 10, "proximal_step": 0.1})
    plain = net()
    optimizer = Outer(list(model.parameters())) if wrapped else torch.optim.SGD(model.parameters(), 0.1)
    by_hand = torch.optim.SGD(plain.parameters(), 0.1)
    for _ in range(3):
        ctrl.scheduler.step()
        for each, of, added in ((optimizer, model, ctrl.loss), (by_hand, plain, lambda: 0)):
            each.zero_grad()
            (nn.functional.cross_entropy(of.train()(X), Y) + added()).backward()
            each.step()
        for layer in (plain[0], plain[2]):
            w = layer.weight.data
            w.copy_(w.sign() * (w.abs() - 10 * 0.1 / 108).clamp(min=0))
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        assert torch.equal(ctrl.strip()(X), model.eval()(X))


def test_an_optimizer_changes_what_it_holds_and_no_stripped_model():
    ctrl, model = compressed({"type": "l1", "weight": 10, "proximal_step": 0.1})
    first, second = (torch.optim.SGD(model[i].parameters(), 0.0) for i in (0, 2))
    ctrl.scheduler.step()
    (model.train()(X).sum() + ctrl.loss()).backward()
    weights = [model[0].weight, model[2].weight]
    before = [weight.detach().clone() for weight in weights]
    first.step()
    assert not torch.equal(weights[0], before[0]) and torch.equal(weights[1], before[1])
    second.step()
    assert not torch.equal(weights[1], before[1])
    ctrl.strip(do_copy=False)
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    first.step()
    assert all(torch.equal(old, now) for old, now in zip(kept, model.parameters(), strict=True))


def test_gradients_alone_make_none_but_small_weights():
    before = net()[0].weight.abs().mean()
    ctrl, model = compressed({"type": "l1", "weight": 5})
    train(model, ctrl, 60)
    assert 0 < ctrl.strip()[0].weight.abs().mean() < before
    assert ctrl.statistics().corad.sparsity_level == 0


def test_the_gradient_is_the_sum_of_the_terms():
    """Of task, regulariser and distillation, each taken alone; and each is in the log by itself."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    ctrl, model = compressed({"type": "entropy", "weight": 2, "delta": 0.1}, MATCHING)
    ctrl.set_teacher(teacher)
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()
    task = nn.functional.cross_entropy(model.train()(X), Y)
    terms = ctrl.loss_terms()
    assert set(terms) == {"corad.regularization", "corad.distillation"} == set(ctrl.loss_values())
    w = model[0].weight
    (whole,) = torch.autograd.grad(ctrl.total_loss(task), w, retain_graph=True)
    alone = [torch.autograd.grad(term, w, retain_graph=True)[0] for term in (task, *terms.values())]
    torch.testing.assert_close(whole, sum(alone))
    raw = dict(model.named_parameters())["0.weight"].detach()
    torch.testing.assert_close(alone[1], 2 * raw.sign() / (0.1 + raw.abs()) / torch.log(torch.tensor(2.0)) / 108)


def test_stages_and_a_teacher_that_agrees():
    ctrl, model = compressed({"type": "l1", "weight": 1, "warmup_epochs": 1, "ramp_epochs": 2, "schedule": "cubic"}, MATCHING)
    stages = []
    for epoch in range(4):
        ctrl.scheduler.epoch_step()
        ctrl.scheduler.step()
        stages.append(ctrl.compression_stage())
        if epoch == 0:
            model.train()(X)
            assert ctrl.loss().item() == pytest.approx(0, abs=1e-6)
    assert stages[0] == stages[1] == CompressionStage.UNCOMPRESSED
    assert stages[2:] == [CompressionStage.PARTIALLY_COMPRESSED, CompressionStage.FULLY_COMPRESSED]


def test_latencies_from_a_table(tmp_path):
    table = tmp_path / "t.json"
    table.write_text(json.dumps({"Sequential/Linear[0]/linear_0": 3.0}))
    term = {"type": "latency", "weight": 1, "latency_table": str(table), "delta": 0.2}
    model = net()
    rms = model[0].weight.detach().square().mean(1).sqrt()
    ctrl, compressed_model = compressed(term, model=model)
    assert ctrl.statistics().corad.regularizer == pytest.approx((rms / (rms + 0.2)).mean().item(), rel=1e-5)
    state = copy.deepcopy(ctrl.get_compression_state())
    for text, words in (
        ('{"fc": 1}', "'fc' is no node of the model"),
        ("[1]", "expected an object with a number"),
        ("{", "cannot be read as JSON"),
    ):
        table.write_text(text)
        with pytest.raises(ConfigError, match=rf"compression\[0\].regularization.latency_table: .*{words}"):
            compressed(term)
    settings = NNCFConfig.from_dict(
        {"input_info": {"sample_size": [1, 6]}, "compression": {"algorithm": "corad", "regularization": term}}
    )
    again, _ = create_compressed_model(net(), settings, state)  # the table is in the state
    assert again.statistics().corad.regularizer == pytest.approx(ctrl.statistics().corad.regularizer)


def test_bit_width_needs_quantizers():
    with pytest.raises(ConfigError, match="bit_width is about learned ranges, expected quantization beside it"):
        compressed({"type": "bit_width", "weight": 1})


def test_what_will_happen_is_told_before():
    from nncf_ext_torch import preview_compression

    entry = {"algorithm": "corad", "regularization": {"type": "l1", "weight": 1}}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 6]}, "compression": entry})
    assert "weight: regularised by l1" in str(preview_compression(net(), config))


def test_gates_shut_weights_for_good():
    """l0: gates have their own place in the optimizer; shut ones make exact zeros, in inference and in the stripped model."""
    ctrl, model = compressed({"type": "l0", "weight": 1}, compression_lr_multiplier=300)
    train(model, ctrl, 60)
    gates = [ctrl.variable_values(edit)["gate"] for edit in ctrl.plan]
    shut = sum(int((gate <= -2.3979).sum()) for gate in gates)
    stripped = ctrl.strip()
    zeros = sum(int((layer.weight == 0).sum()) for layer in (stripped[0], stripped[2]))
    assert zeros == shut > 10 and ctrl.statistics().corad.sparsity_level_for_layers == shut / 108
    assert torch.equal(stripped.eval()(X), model.eval()(X))
