"""Sparsity in a user's loop on real data: levels reached, masks that stay, masks that are loaded."""

import copy
import io
import shutil

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, load_state, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import CheckpointError
from nncf_ext.tools import demo

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor needs a compiler")


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )


@pytest.fixture(scope="module")
def digits():
    data = demo.load_digits()
    return [
        torch.from_numpy(a) for a in (data.train_images[:, None], data.train_labels, data.test_images[:, None], data.test_labels)
    ]


@pytest.fixture(scope="module")
def trained(digits):
    model = net()
    train(model, torch.optim.Adam(model.parameters(), 2e-3), digits, 5)
    return model


def train(model, optimizer, digits, epochs, ctrl=None):
    torch.manual_seed(1)
    for _ in range(epochs):
        model.train()
        if ctrl is not None:
            ctrl.scheduler.epoch_step()
        for rows in torch.randperm(len(digits[0])).split(32):
            if ctrl is not None:
                ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits[0][rows]), digits[1][rows])
            (loss if ctrl is None else loss + ctrl.loss()).backward()
            optimizer.step()


def accuracy(model, digits):
    model.eval()
    with torch.no_grad():
        return float((model(digits[2]).argmax(1) == digits[3]).float().mean())


def compress(model, *compression, state=None, data=None):
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 1, 8, 8]}, "compression": list(compression)})
    if data is not None:
        register_default_init_args(config, [data])
    return create_compressed_model(model, config, state)


def adam(model, scores):
    """Weights learn at 1e-3, scores at their own rate."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith("scores")].append(parameter)
    return torch.optim.Adam([{"params": groups[False], "lr": 1e-3}, {"params": groups[True], "lr": scores}], weight_decay=1e-4)


def rb(**params):
    return {"algorithm": "rb_sparsity", "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 3, **params}}


def masks(ctrl):
    return [ctrl.variable_values(edit)["scores"] > 0 for edit in ctrl.plan.of("rb_sparsity")]


def test_rb_reaches_its_level_and_keeps_the_accuracy(trained, digits):
    model = copy.deepcopy(trained)
    ctrl, _ = compress(model, rb(sparsity_freeze_epoch=6))
    optimizer = adam(model, 0.05)
    train(model, optimizer, digits, 6, ctrl)
    report = ctrl.statistics().rb_sparsity
    assert abs(report.sparsity_level_for_layers - 0.6) < 0.01
    assert ctrl.compression_rate == ctrl.current_sparsity_level == report.model_statistics.sparsity_level_for_layers
    assert [layer.name for layer in ctrl.sparsified_module_info] == [edit.site.node for edit in ctrl.plan]
    before = masks(ctrl)

    train(model, optimizer, digits, 2, ctrl)  # frozen
    assert float(ctrl.loss().detach()) == 0
    assert all((a == b).all() for a, b in zip(masks(ctrl), before, strict=True))
    assert accuracy(model, digits) > accuracy(trained, digits) - 0.03
    model[1].eval(), model[4].eval()
    x = digits[2][:32]
    model[0].train(), model[3].train(), model[7].train()
    quiet = [model(x).detach()]
    ctrl.scheduler.step()
    assert torch.equal(quiet[0], model(x))  # no noise

    plain = ctrl.strip()
    zeros = sum(int((w == 0).sum()) for n, w in plain.named_parameters() if w.ndim > 1)
    assert zeros == sum(int((~mask).sum()) for mask in before)
    assert accuracy(plain, digits) == accuracy(model, digits)


def test_local_levels_hold_in_every_layer(trained, digits):
    model = copy.deepcopy(trained)
    ctrl, _ = compress(model, rb(sparsity_level_setting_mode="local", sparsity_freeze_epoch=100))
    train(model, adam(model, 0.05), digits, 6, ctrl)
    assert all(abs(layer.level - 0.6) < 0.05 for layer in ctrl.statistics().rb_sparsity.layers)


def test_adaptive_level_waits_for_the_model(trained, digits):
    model = copy.deepcopy(trained)
    ctrl, _ = compress(model, rb(schedule="adaptive"))
    levels = []
    for _ in range(4):
        train(model, adam(model, 1e-5), digits, 1, ctrl)
        levels.append(ctrl.statistics().rb_sparsity.target_sparsity_level)
    assert levels == [0.05] * 4  # the scores stand still


def test_every_process_masks_the_same():
    """Whatever its own random state, and whether or not it takes part from the start."""
    torch.manual_seed(3)
    first, one = compress(net(5), rb())
    torch.manual_seed(4)
    second, two = compress(net(5), rb())
    for model in (one, two):
        model.train()
    x = torch.rand(4, 1, 8, 8)
    for _ in range(2):
        first.scheduler.step(), second.scheduler.step()
        torch.rand(7)
        assert torch.equal(one(x), two(x))
    a = one(x)
    first.scheduler.step()
    assert not torch.equal(one(x), a)


def test_a_run_resumes_in_the_middle_of_an_epoch(digits, tmp_path):
    def steps(model, ctrl, optimizer, which):
        for index in which:
            ctrl.scheduler.step()
            optimizer.zero_grad()
            rows = slice(32 * index, 32 * index + 32)
            (nn.functional.cross_entropy(model(digits[0][rows]), digits[1][rows]) + ctrl.loss()).backward()
            optimizer.step()

    ctrl, model = compress(net(), rb())
    ctrl.scheduler.epoch_step(), ctrl.scheduler.epoch_step()
    optimizer = torch.optim.SGD(model.train().parameters(), 0.05)
    steps(model, ctrl, optimizer, range(3))
    ctrl.save_checkpoint(tmp_path / "middle.safetensors")
    steps(model, ctrl, optimizer, range(3, 6))

    other, resumed = compress(net(1), rb(), state=ctrl.get_compression_state())
    other.load_checkpoint(tmp_path / "middle.safetensors")
    steps(resumed, other, torch.optim.SGD(resumed.train().parameters(), 0.05), range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_a_model_between_forward_and_loss_is_copied_and_pickled():
    ctrl, model = compress(net(), rb())
    model.train()(torch.rand(4, 1, 8, 8))
    copied = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(copied.eval()(x), model.eval()(x)) and torch.equal(loaded.eval()(x), model(x))
    assert float(ctrl.loss().detach()) == pytest.approx(0)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_steps_are_the_same():
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU())
        config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 20]}, "compression": rb()})
        ctrl, _ = create_compressed_model(model, config)
        run = torch.compile(model, fullgraph=True) if compiled else model
        ctrl.scheduler.epoch_step(), ctrl.scheduler.epoch_step()
        optimizer = torch.optim.SGD(model.train().parameters(), 5.0)
        for _ in range(3):
            ctrl.scheduler.step()
            optimizer.zero_grad()
            (run(torch.linspace(-1, 1, 80).reshape(4, 20)).square().mean() + ctrl.loss()).backward()
            optimizer.step()
        results.append(model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_int8_of_random_masks_is_exported(trained, digits, tmp_path):
    int8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}
    ctrl, model = compress(copy.deepcopy(trained), rb(), int8, data=(digits[0][:64], digits[1][:64]))
    train(model, adam(model, 0.3), [d[:320] for d in digits], 3, ctrl)
    parity = ctrl.export_model(tmp_path / "model.onnx")
    assert parity.lsb < 1
    assert ctrl.compression_rate > 0


def test_levels_by_hand(trained, digits):
    ctrl, model = compress(
        copy.deepcopy(trained), {"algorithm": "magnitude_sparsity", "sparsity_init": 0.2}, data=(digits[0][:64], digits[1][:64])
    )
    first, second, last = ctrl.sparsified_module_info
    ctrl.set_sparsity_level(0.5, layer_info=last)
    levels = {layer.name: layer.level for layer in ctrl.sparsified_module_info}
    assert levels[last.name] == 0.5
    ctrl.scheduler.epoch_step(0)  # the schedule is about the others now
    assert ctrl.sparsified_module_info[2].level == 0.5
    others = sum(layer.level * np.prod(layer.shape) for layer in ctrl.sparsified_module_info[:2])
    assert others / sum(np.prod(layer.shape) for layer in (first, second)) == pytest.approx(0.2, abs=1e-3)

    mean = model[1].running_mean.clone()
    ctrl.set_sparsity_level(0.7, run_batchnorm_adaptation=True)
    assert ctrl.current_sparsity_level == pytest.approx(0.7, abs=1e-3)
    assert not torch.equal(model[1].running_mean, mean)
    ctrl.freeze()
    ctrl.set_sparsity_level(0.6)
    ctrl.scheduler.epoch_step(50)
    assert ctrl.current_sparsity_level == pytest.approx(0.6, abs=1e-3)
    thresholds = ctrl.statistics().magnitude_sparsity.thresholds
    assert [t.name for t in thresholds] == [first.name, second.name, last.name] and all(t.threshold > 0 for t in thresholds)
    for level, layer in ((1.0, None), (-0.1, None), (0.5, "conv9")):
        with pytest.raises(ValueError, match="magnitude_sparsity: found"):
            ctrl.set_sparsity_level(level, layer)


def test_rb_levels_by_hand(trained):
    ctrl, model = compress(copy.deepcopy(trained), rb())
    last = ctrl.sparsified_module_info[-1]
    ctrl.set_sparsity_level(0.3)
    ctrl.set_sparsity_level(0.5, last.name)
    levels = [float(ctrl.variable_values(edit)["level"]) for edit in ctrl.plan]
    assert levels == pytest.approx([0.3, 0.3, 0.5])
    ctrl.scheduler.epoch_step(5)
    assert [float(ctrl.variable_values(edit)["level"]) for edit in ctrl.plan] == levels
    ctrl.compression_rate = 0.4
    assert [float(ctrl.variable_values(edit)["level"]) for edit in ctrl.plan] == pytest.approx([0.4] * 3)


def test_const_masks_are_the_zeros_of_the_weights(trained, digits):
    sparse = copy.deepcopy(trained)
    with torch.no_grad():
        for parameter in sparse.parameters():
            if parameter.ndim > 1:
                parameter[parameter.abs() < 0.03] = 0
    sparse[0].weight.requires_grad_(False)  # a frozen layer is no obstacle
    zeros = [(p == 0) for p in sparse.parameters()]
    int8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}
    ctrl, model = compress(sparse, {"algorithm": "const_sparsity"}, int8, data=(digits[0][:64], digits[1][:64]))
    level = ctrl.statistics().const_sparsity.sparsity_level_for_layers
    assert 0 < level < 1
    train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01, 0.9), digits, 1, ctrl)
    stripped = ctrl.strip()
    for parameter, zero in zip(stripped.parameters(), zeros, strict=True):
        assert (parameter[zero] == 0).all()
    assert ctrl.statistics().const_sparsity.sparsity_level_for_layers == level


def test_const_masks_come_from_a_sparse_checkpoint(trained):
    """Of magnitude_sparsity, whose tensors have the same names; its compression state is of another algorithm."""
    ctrl, sparse = compress(copy.deepcopy(trained), {"algorithm": "magnitude_sparsity", "sparsity_init": 0.4})
    const, model = compress(net(), {"algorithm": "const_sparsity"})
    assert const.statistics().const_sparsity.sparsity_level == 0
    load_state(model, sparse.state_dict(), is_resume=True)
    assert const.statistics().const_sparsity.sparsity_level_for_layers == pytest.approx(0.4, abs=1e-3)
    with pytest.raises(CheckpointError, match="state is of"):
        compress(net(), {"algorithm": "const_sparsity"}, state=ctrl.get_compression_state())


def test_scores_of_an_nncf_checkpoint():
    ctrl, model = compress(net(), rb())
    state = {name: value.clone() for name, value in model.state_dict().items() if "rb_mask" not in name}
    for index in (0, 3, 7):
        state[f"{index}.pre_ops.0.op._mask"] = torch.full_like(model[index].nncf_ext_weight_rb_mask_scores, -index - 1.0)
    load_state(model, state, is_resume=True)
    assert [float(model[i].nncf_ext_weight_rb_mask_scores.detach().mean()) for i in (0, 3, 7)] == [-1, -4, -8]
