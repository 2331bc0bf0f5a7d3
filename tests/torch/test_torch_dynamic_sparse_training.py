"""Sparse training in PyTorch: any optimizer, the dense gradient, resuming, compiled and scaled training."""

import copy

import pytest
import torch
from nncf_ext_torch import create_compressed_model
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.tools.demo import load_digits


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*layers)


def compressed(model=None, state=None, **params):
    params = {"sparsity_target": 0.8, "update_interval": 3, "end": 10, **params}
    entry = {"algorithm": "dynamic_sparse_training", "params": params}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": entry})
    return create_compressed_model(net() if model is None else model, config, state)


def batch(step):
    digits = load_digits()
    start = 32 * step % 1024
    return torch.from_numpy(digits.train_images[start : start + 32]), torch.from_numpy(digits.train_labels[start : start + 32])


def task_loss(model, step):
    x, y = batch(step)
    return nn.functional.cross_entropy(model(x.reshape(-1, 1, 8, 8)), y)


def train(ctrl, model, optimizers, steps):
    model.train()
    for step in steps:
        ctrl.scheduler.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        (task_loss(model, step) + ctrl.loss()).backward()
        for optimizer in optimizers:
            optimizer.step()


def layers(ctrl):
    """(parameter, mask) of the sparse layers."""
    return [(ctrl._attached._raw(edit.site), ctrl._attached.variables(edit)["mask"]) for edit in ctrl.plan]


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "Adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=1e-1),
    "AMSGrad": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "NAdam": lambda p: torch.optim.NAdam(p, 1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_connections_are_constant_and_start_from_nothing(name, method):
    ctrl, model = compressed(method=method)
    optimizer = OPTIMIZERS[name](model.parameters())
    counts = [int(mask.sum()) for _, mask in layers(ctrl)]
    before = [mask.clone() for _, mask in layers(ctrl)]
    changes = []
    for step in range(14):
        train(ctrl, model, [optimizer], [step])
        for (parameter, mask), old, count in zip(layers(ctrl), before, counts, strict=True):
            assert int(mask.sum()) == count
            assert not parameter[mask == 0].any()
            new = (mask == 1) & (old == 0)
            for value in optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    assert not value[mask == 0].any()
                    assert not value[new].any()
            assert not parameter[new].any()
        changes.append(any((mask != old).any() for (_, mask), old in zip(layers(ctrl), before, strict=True)))
        before = [mask.clone() for _, mask in layers(ctrl)]
    assert {step for step, changed in enumerate(changes) if changed} == {3, 6, 9}
    assert ctrl.statistics().dynamic_sparse_training.updates == 3


def test_grown_connections_have_the_largest_gradients():
    """Of the loss by the weights without masks, as autograd has it for the plain model."""
    ctrl, model = compressed()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(ctrl, model, [optimizer], range(3))
    plain = net()
    plain.load_state_dict(ctrl.strip().state_dict())
    plain.train()
    task_loss(plain, 3).backward()
    gradients = [plain[i].weight.grad for i in (0, 4, 6)]
    before = [(parameter.detach().clone(), mask.clone()) for parameter, mask in layers(ctrl)]
    train(ctrl, model, [optimizer], [3])
    share = ctrl._algorithms[0].drop_fraction(3)
    for (weight, old), (parameter, mask), gradient in zip(before, layers(ctrl), gradients, strict=True):
        moved = int(share * old.sum())
        stepped = (weight - 0.1 * gradient) * old  # the present connections train in this step too
        kept = torch.zeros_like(old).flatten()
        kept[torch.where(old > 0, stepped.abs(), -1).flatten().argsort(descending=True)[: int(old.sum()) - moved]] = 1
        candidates = torch.where(kept.reshape(old.shape) > 0, -1, gradient.abs()).flatten()
        kept[candidates.argsort(descending=True)[:moved]] = 1
        assert torch.equal(kept.reshape(old.shape), mask)
        torch.testing.assert_close(parameter.detach(), stepped * mask)


@pytest.mark.parametrize("method", ["rigl", "granet", "ac_dc", "top_kast"])
def test_resuming_in_the_middle_has_the_same_bits(method, tmp_path):
    params = {
        "method": method,
        **({"final_epoch": 3, "compressed_epochs": 1, "decompressed_epochs": 1} if method == "ac_dc" else {}),
    }

    def epochs(ctrl, model, optimizer, numbers):
        for epoch in numbers:
            ctrl.scheduler.epoch_step()
            train(ctrl, model, [optimizer], range(4 * epoch, 4 * epoch + 4))

    ctrl, model = compressed(**params)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    epochs(ctrl, model, optimizer, range(1))  # ends with a step in which connections move
    ctrl.save_checkpoint(tmp_path / "half.safetensors")
    state, moments = ctrl.get_compression_state(), copy.deepcopy(optimizer.state_dict())
    epochs(ctrl, model, optimizer, range(1, 4))

    resumed, again = compressed(state=state, **params)
    resumed.load_checkpoint(tmp_path / "half.safetensors")
    other = torch.optim.Adam(again.parameters(), 1e-2)
    other.load_state_dict(moments)
    epochs(resumed, again, other, range(1, 4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_layers_may_have_different_optimizers():
    ctrl, model = compressed(distribution="uniform")
    optimizers = [torch.optim.SGD(model[:4].parameters(), 0.1, momentum=0.9), torch.optim.Adam(model[4:].parameters(), 1e-2)]
    masks = [mask.clone() for _, mask in layers(ctrl)]
    train(ctrl, model, optimizers, range(5))
    for (parameter, mask), old in zip(layers(ctrl), masks, strict=True):
        assert (mask != old).any() and mask.sum() == old.sum()
        assert not parameter[mask == 0].any()


def test_a_step_that_the_scaler_leaves_out_is_waited_for():
    ctrl, model = compressed(distribution="uniform")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(ctrl, model, [optimizer], range(3))
    masks = [mask.clone() for _, mask in layers(ctrl)]
    ctrl.scheduler.step()
    task_loss(model, 3).backward()  # and no optimizer's step
    model.eval()
    with torch.no_grad():
        waiting = model(batch(0)[0].reshape(-1, 1, 8, 8))
        assert torch.equal(waiting, ctrl.strip()(batch(0)[0].reshape(-1, 1, 8, 8)))  # sparse all the same
    assert all(torch.equal(mask, old) for (_, mask), old in zip(layers(ctrl), masks, strict=True))
    train(ctrl, model, [optimizer], [4])
    assert all((mask != old).any() for (_, mask), old in zip(layers(ctrl), masks, strict=True))


def test_copies_do_not_take_part():
    ctrl, model = compressed()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(ctrl, model, [optimizer], range(4))
    state = twin.state_dict()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    assert all(torch.equal(value, state[name]) for name, value in twin.state_dict().items())


def test_stripped_and_exported_models_are_sparse(tmp_path):
    onnx = pytest.importorskip("onnx")
    ctrl, model = compressed()
    train(ctrl, model, [torch.optim.Adam(model.parameters(), 1e-2)], range(12))
    plain = ctrl.strip()
    level = ctrl.statistics().dynamic_sparse_training.sparsity_level_for_layers
    weights = [plain[i].weight for i in (0, 4, 6)]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert zeros == pytest.approx(level, abs=1e-3) and level == pytest.approx(0.8, abs=0.01)
    report = ctrl.export_model(str(tmp_path / "sparse.onnx"))
    assert report.difference < 1e-4
    onnx.checker.check_model(str(tmp_path / "sparse.onnx"))


def test_shares_of_flops():
    """Inference by density; RigL's training: three times that, and the dense gradient in one step of three."""
    ctrl, _ = compressed(distribution="uniform", sparsity_target=0.5, update_interval=3)
    report = ctrl.statistics().dynamic_sparse_training
    assert report.inference_flops == pytest.approx(0.5, abs=1e-3)
    assert report.training_flops == pytest.approx(0.5 + 0.5 / 9, abs=1e-3)


def test_an_optimizer_that_is_none_of_torchs_is_told_where_it_makes_weights_dense():
    ctrl, model = compressed()
    with pytest.raises(RuntimeError, match="weights of .* without a connection were trained, and no optimizer was seen"):
        for step in range(8):
            ctrl.scheduler.step()
            model.zero_grad()
            (task_loss(model.train(), step) + ctrl.loss()).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.05 * parameter.grad
    assert step == 4  # the third step's gradients were dense, and the next step finds their trace


def test_steps_that_are_left_out_are_waited_for():
    """A GradScaler leaves out what overflowed."""
    ctrl, model = compressed()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(ctrl, model, [optimizer], range(3))
    train(ctrl, model, [], range(3, 6))
    train(ctrl, model, [optimizer], range(6, 8))
    assert all((parameter[~mask] == 0).all() for parameter, mask in layers(ctrl))
