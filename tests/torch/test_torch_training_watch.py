"""Schedules that nobody steps, losses that nobody trains with, weights without the schedule's state, targets not reached."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from nncf_ext_torch import create_compressed_model, optimizer_steps
from torch import nn

from nncf_ext import NNCFConfig

SPARSE = {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.9, "sparsity_target_epoch": 2}}
RB = {"algorithm": "rb_sparsity", "sparsity_init": 0.6, "params": {"sparsity_target": 0.6}}
RIGL = {"algorithm": "dynamic_sparse_training", "params": {"method": "rigl", "sparsity_target": 0.5, "end": 9}}
DISTILLED = {"algorithm": "knowledge_distillation", "type": "mse", "task_weight": 0.25}
NOBODY = "an optimizer trains the model, and nobody tells the schedule"
X = torch.linspace(-1, 1, 32).reshape(4, 8)


def compressed(algorithm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 2))
    return create_compressed_model(model, NNCFConfig.from_dict({"input_info": {"sample_size": [1, 8]}, "compression": algorithm}))


def step(model, optimizer, extra=lambda task: task):
    optimizer.zero_grad()
    extra(model(X).square().mean()).backward()
    optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1)


def test_the_first_step_warns_and_so_does_what_leaves_the_training(tmp_path):
    ctrl, model = compressed(SPARSE)
    optimizer = sgd(model)
    with pytest.warns(UserWarning, match=NOBODY) as told:
        step(model, optimizer)
    assert len(told) == 1 and "magnitude_sparsity: " in str(told[0].message)
    assert "expected controller.scheduler.epoch_step() before each epoch, or" in str(told[0].message)
    step(model, optimizer)  # once
    not_reached = (
        "^magnitude_sparsity has not reached its target: found 0.0% zeros, expected 90.0% from epoch 2 on; its schedule is at "
        r"epoch -1, which scheduler.epoch_step\(\) never told of training$"
    )
    for leave in (lambda: ctrl.export_model(tmp_path / "m.onnx"), ctrl.strip, lambda: ctrl.pack(tmp_path / "m.ncp")):
        with pytest.warns(UserWarning, match=not_reached) as told:
            leave()
        assert len(told) == 1


def test_a_schedule_that_is_stepped_says_nothing_and_one_that_is_cut_short_says_where():
    ctrl, model = compressed(SPARSE)
    optimizer = sgd(model)
    for epoch in range(3):
        ctrl.scheduler.epoch_step()
        step(model, optimizer)  # `scheduler.step` is nothing to a schedule of epochs
        if epoch == 1:
            with pytest.warns(
                UserWarning, match=r"found 42.0% zeros, expected 90.0% from epoch 2 on; its schedule is at epoch 1$"
            ):
                ctrl.strip()
    ctrl.strip()


def test_what_the_user_sets_is_not_complained_of():
    for command in (lambda ctrl: ctrl.set_sparsity_level(0.3), lambda ctrl: ctrl.freeze(), lambda ctrl: ctrl.disable_scheduler()):
        ctrl, model = compressed(SPARSE)
        command(ctrl)
        step(model, sgd(model))
        ctrl.strip()
    ctrl, model = compressed({"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 0}}})
    step(model, sgd(model))
    ctrl.strip()


@pytest.mark.parametrize(
    ("algorithm", "calls"),
    [
        (RIGL, {"step"}),
        (RB, {"step"}),
        ({**SPARSE, "params": {**SPARSE["params"], "update_per_optimizer_step": True}}, {"epoch_step", "step"}),
    ],
    ids=["rigl", "noise", "a level that rises in every step"],
)
def test_each_schedule_waits_for_its_own_calls(algorithm, calls):
    ctrl, model = compressed(algorithm)
    optimizer = sgd(model)
    ctrl.scheduler.epoch_step()
    step(model, optimizer, ctrl.total_loss)  # a loop may call scheduler.step() after it
    with pytest.warns(UserWarning, match=r"expected controller.scheduler.step\(\) before each optimizer step, or"):
        step(model, optimizer, ctrl.total_loss)
    ctrl, model = compressed(algorithm)
    ctrl.scheduler.step()
    if "epoch_step" in calls:
        with pytest.warns(UserWarning, match=r"expected controller.scheduler.epoch_step\(\) before each epoch, or"):
            step(model, sgd(model), ctrl.total_loss)
    else:
        step(model, sgd(model), ctrl.total_loss)


@pytest.mark.parametrize("algorithm", [RIGL, RB], ids=["rigl", "noise"])
def test_a_loop_that_steps_the_schedule_after_the_optimizer_says_nothing(algorithm):
    ctrl, model = compressed(algorithm)
    optimizer = sgd(model)
    for _ in range(2):
        ctrl.scheduler.epoch_step()
        for _ in range(2):
            step(model, optimizer, ctrl.total_loss)
            ctrl.scheduler.step()


def test_one_call_in_each_epoch_is_too_few():
    ctrl, model = compressed(RIGL)
    optimizer = sgd(model)
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()
    step(model, optimizer)
    with pytest.warns(UserWarning, match=NOBODY):
        step(model, optimizer)


def test_two_optimizers_for_one_model_and_others_beside_it():
    ctrl, model = compressed(RIGL)
    halves = [torch.optim.SGD(layer.parameters(), 0.1) for layer in (model[0], model[2])]
    for _ in range(3):
        ctrl.scheduler.epoch_step()
        ctrl.scheduler.step()
        for optimizer in halves:
            step(model, optimizer)
    ctrl, model = compressed(SPARSE)
    other, copied = nn.Linear(8, 2), copy.deepcopy(model)
    step(other, sgd(other))
    step(copied, sgd(copied))
    with pytest.warns(UserWarning, match=NOBODY):
        step(model, sgd(model))


def test_a_loss_that_nobody_trains_with():
    ctrl, model = compressed(RB)
    optimizer = sgd(model)
    for _ in range(2):
        ctrl.scheduler.epoch_step()
        ctrl.scheduler.step()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            step(model, optimizer)
        if _ == 0:
            assert "rb_sparsity: the model is trained without the loss of the algorithm" in str(told[0].message)
    assert not told
    for extra in (
        lambda c: c.total_loss,
        lambda c: lambda task: task + c.loss(),
        lambda c: lambda task: task + c.loss.calculate(),
    ):
        ctrl, model = compressed(RB)
        ctrl.scheduler.step()
        step(model, sgd(model), extra(ctrl))


def test_a_weight_of_the_tasks_loss_that_no_loop_asks_for():
    ctrl, model = compressed(DISTILLED)
    step(model, sgd(model), ctrl.total_loss)
    ctrl, model = compressed(DISTILLED)
    with pytest.warns(UserWarning, match=r"expected controller.total_loss\(loss\) in place of loss \+ controller.loss\(\)"):
        step(model, sgd(model), lambda task: task + ctrl.loss())


def test_weights_of_a_compressed_model_without_the_state():
    ctrl, model = compressed(SPARSE)
    for _ in range(3):
        ctrl.scheduler.epoch_step()
    weights, state = model.state_dict(), ctrl.get_compression_state()
    again, model = compressed(SPARSE)
    model.load_state_dict(weights)
    with pytest.warns(UserWarning, match="weights of a compressed model were loaded without the state of its schedule"):
        again.scheduler.epoch_step()
    for resume in (lambda c: c.load_state(state), lambda c: c.scheduler.epoch_step(3)):
        again, model = compressed(SPARSE)
        model.load_state_dict(weights)
        resume(again)
        again.scheduler.epoch_step()
        assert again.statistics().magnitude_sparsity.sparsity_level_for_layers == pytest.approx(0.9)
    again, model = compressed(SPARSE)
    plain = {name: value for name, value in weights.items() if "nncf_ext" not in name}
    model.load_state_dict(plain, strict=False)
    again.scheduler.epoch_step()


def test_masks_of_an_earlier_epoch_are_told_at_the_end():
    """A loop that keeps the best weights of all, which are the least sparse."""
    ctrl, model = compressed({**SPARSE, "params": {**SPARSE["params"], "sparsity_freeze_epoch": 2}})
    ctrl.scheduler.epoch_step()
    best = copy.deepcopy(model.state_dict())
    for _ in range(3):
        ctrl.scheduler.epoch_step()
    ctrl.strip()
    model.load_state_dict(best)
    with pytest.warns(UserWarning, match="found 0.0% zeros, expected 90.0% from epoch 2 on; its schedule has ended"):
        ctrl.strip()


def test_filter_masks_of_an_earlier_epoch_are_told():
    entry = {"algorithm": "filter_pruning", "params": {"pruning_target": 0.5, "pruning_steps": 2, "all_weights": True}}
    ctrl, model = compressed({**entry, "params": {**entry["params"], "prune_first_conv": True, "num_init_steps": 1}})
    early, state = copy.deepcopy(model.state_dict()), ctrl.get_state()
    for _ in range(4):
        ctrl.scheduler.epoch_step()
    late = copy.deepcopy(model.state_dict())
    ctrl.strip()
    model.load_state_dict(early)
    with pytest.warns(UserWarning, match="found masks of an earlier epoch, with 0.0% of the filters pruned, expected 50.0%"):
        ctrl.strip()
    model.load_state_dict(late)
    ctrl.strip()
    model.load_state_dict(early)
    ctrl.load_state(state)
    with pytest.warns(UserWarning, match="found 0.0% of the filters pruned"):
        ctrl.strip()


def test_no_hook_stays_behind():
    gc.collect()
    ctrl, model = compressed(SPARSE)
    assert optimizer_steps._hooks
    ctrl.set_sparsity_level(0.5)
    ctrl.strip(do_copy=False)
    assert not [watch for watch in optimizer_steps._listening if getattr(watch, "_model", None) is model]
    assert not model._load_state_dict_pre_hooks
    step(model, sgd(model))


def test_quantization_alone_leaves_optimizers_as_they_are(monkeypatch):
    monkeypatch.setattr(optimizer_steps, "_listening", weakref.WeakSet())
    compressed({"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 0}}})
    assert not list(optimizer_steps._listening)


@pytest.mark.filterwarnings("ignore:dynamic_sparse_training has not reached its target")
def test_the_copy_that_a_strip_in_place_leaves_listens_to_nobody(monkeypatch):
    monkeypatch.setattr(optimizer_steps, "_listening", weakref.WeakSet())
    ctrl, model = compressed(RIGL)
    ctrl.scheduler.epoch_step()
    for _ in range(2):
        ctrl.scheduler.step()
        step(model, sgd(model))
    assert list(optimizer_steps._listening)
    ctrl.strip(do_copy=False)
    gc.collect()
    assert not list(optimizer_steps._listening)
    ctrl.statistics()
