"""Damaged files, odd numbers, threads: nothing half done, and one sentence."""

import json
import threading

import numpy as np
import onnxruntime as ort
import pytest
import torch
from nncf_ext_torch import create_compressed_model, load_state, register_default_init_args
from torch import nn

from nncf_ext import ConfigError, InitializationWarning, NNCFConfig
from nncf_ext.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nncf_ext.packed import load
from nncf_ext.tools.inspection import describe

QUANTIZATION = {"algorithm": "quantization"}


def compressed(compression=QUANTIZATION, dtype=torch.float32, model=None):
    torch.manual_seed(0)
    x = torch.randn(8, 16, dtype=dtype)
    model = model if model is not None else nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    config = NNCFConfig.from_dict({"compression": compression})
    return *create_compressed_model(model.to(dtype), register_default_init_args(config, [(x, x)])), x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_floats_are_exported_in_float32(tmp_path, dtype):
    controller, model, x = compressed(dtype=dtype)
    report = controller.export_model(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [value.type for value in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float)"] * 2
    assert report.lsb < 0.1
    found = session.run(None, {session.get_inputs()[0].name: x.float().numpy()})[0]
    model.eval()
    assert np.abs(found - model(x).detach().float().numpy()).max() < (1e-5 if dtype == torch.float64 else 0.05)
    assert {parameter.dtype for parameter in model.parameters()} >= {dtype} and not model._forward_pre_hooks


def test_a_failed_export_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    controller, model, _ = compressed()
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with monkeypatch.context() as patched:
        patched.setattr(ort, "InferenceSession", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no such operator\nat x")))
        with pytest.raises(ValueError, match="model.onnx: ONNX Runtime cannot load the file: no such operator$"):
            controller.export_model(path)
    with torch.no_grad():
        model[2].bias[1] = float("nan")
    with pytest.raises(ValueError, match="export: 2.bias: 1 of 4 numbers are NaN"):
        controller.export_model(path)
    assert path.read_bytes() == b"before" and [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_threads_that_export_pack_and_save_from_one_controller_and_from_two(tmp_path):
    pairs = [compressed()[:2], compressed([QUANTIZATION, {"algorithm": "const_sparsity"}])[:2]]
    alone = []
    for number, (controller, model) in enumerate(pairs):
        controller.export_model(tmp_path / f"alone{number}.onnx")
        controller.pack(tmp_path / f"alone{number}.ncp")
        model.eval()
        with torch.no_grad():
            alone.append(model(torch.ones(2, 16)))
        model.train()
    errors = []

    def work(number, which):
        controller = pairs[which][0]
        try:
            controller.export_model(tmp_path / f"{number}.onnx")
            controller.pack(tmp_path / f"{number}.ncp")
            controller.save_checkpoint(tmp_path / f"{number}.safetensors")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number, number // 2)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for number in range(3):
        which = number // 2
        assert (tmp_path / f"{number}.onnx").read_bytes() == (tmp_path / f"alone{which}.onnx").read_bytes()
        packed, expected = load(tmp_path / f"{number}.ncp"), load(tmp_path / f"alone{which}.ncp")
        assert packed.keys() == expected.keys() and all((packed[name] == expected[name]).all() for name in expected)
        tensors, _ = load_checkpoint(tmp_path / f"{number}.safetensors")
        own = pairs[which][1].state_dict()
        assert all(np.array_equal(tensors[name], own[name].numpy()) for name in own)
    for (_, model), before in zip(pairs, alone, strict=True):
        assert all(module.training for module in model.modules())
        model.eval()
        assert torch.equal(model(torch.ones(2, 16)), before)


SPARSE = {
    "algorithm": "magnitude_sparsity",
    "params": {"schedule": "multistep", "multistep_sparsity_levels": [0.5], "multistep_steps": []},
}
ROUNDS = {"algorithm": "iterative_magnitude", "params": {"sparsity_target": 0.5, "rounds": 2}}
TWO_OF_FOUR = {"algorithm": "dynamic_sparse_training", "params": {"method": "sr_ste", "structure": "2:4"}}
DAMAGE = [
    (QUANTIZATION, {"enabled": 5}, "quantization: enabled: found 5"),
    (QUANTIZATION, {"enabled": {"weights": 1, "activations": True}}, "enabled.weights: found 1"),
    (QUANTIZATION, {"unknown": 1}, "unknown"),
    (SPARSE, {"level": 1.5}, "level: found 1.5"),
    (SPARSE, {"bad_epochs": -1}, "bad_epochs: found -1"),
    (SPARSE, {"frozen": None}, "frozen: found null"),
    (ROUNDS, {"dropout_now": {"nowhere": 0.5}}, "'nowhere' is no dropout layer"),
    (TWO_OF_FOUR, {"moving": 3}, "sr_ste waits for no step's end"),
]


@pytest.mark.parametrize(("compression", "state", "message"), DAMAGE)
def test_a_state_of_another_shape_changes_nothing(tmp_path, compression, state, message):
    controller, model, _ = compressed(compression)
    controller.scheduler.epoch_step()
    whole = controller.get_compression_state()
    name = compression["algorithm"]
    damaged = json.loads(json.dumps(whole))
    damaged["ctrl_state"]["scheduler_state"]["current_epoch"] = 77
    damaged["ctrl_state"]["algorithms"][name]["state"] |= state
    tensors = {key: value.numpy() for key, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "c.safetensors", tensors, damaged)
    with torch.no_grad():
        model[0].weight.add_(1)
    weight = model[0].weight.clone()
    for load_it in (
        lambda: controller.load_checkpoint(tmp_path / "c.safetensors"),
        lambda: controller.load_state(damaged),
        lambda: controller.load_state_dict(damaged),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_it()
    assert controller.scheduler.current_epoch == 0 and torch.equal(model[0].weight, weight)
    assert controller.get_compression_state() == whole
    controller.load_state(whole)
    controller.scheduler.epoch_step()


def test_tensors_of_another_kind_change_nothing(tmp_path):
    controller, model, _ = compressed()
    controller.save_checkpoint(tmp_path / "c.safetensors")
    tensors, state = load_checkpoint(tmp_path / "c.safetensors")
    scale = next(name for name in tensors if "scale" in name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value, message in (
        ("0.weight", tensors["0.weight"].astype(np.int32), r"0.weight is int32\[32, 16\], the model's float32\[32, 16\]"),
        ("0.weight", tensors["0.weight"][:1], r"0.weight is float32\[1, 16\]"),
        ("0.weight", tensors["0.weight"] * np.nan, "0.weight: 512 of 512 numbers are NaN"),
        (scale, tensors[scale] * np.inf, "numbers are infinite, expected finite ones"),
    ):
        save_checkpoint(tmp_path / "d.safetensors", {**tensors, "2.bias": tensors["2.bias"] + 1, name: value}, state)
        with pytest.raises(CheckpointError, match=message):
            controller.load_checkpoint(tmp_path / "d.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_in_the_middle_of_loading_changes_nothing(tmp_path, monkeypatch):
    controller, model, _ = compressed()
    controller.save_checkpoint(tmp_path / "c.safetensors")
    with torch.no_grad():
        model[0].weight.add_(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(type(controller.algorithms[0]), "resume", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match="no memory"):
        controller.load_checkpoint(tmp_path / "c.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plan_that_does_not_fit_the_model_is_no_crash():
    state = json.loads(json.dumps(compressed()[0].get_compression_state()))
    edit = next(e for e in state["builder_state"]["plan"]["edits"] if e["transform"].get("channel_axis") is not None)
    edit["transform"]["channel_axis"] = 7
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 16]}, "compression": QUANTIZATION})
    with pytest.raises(CheckpointError, match="has channel_axis 7, the tensor there has 2 axes"):
        create_compressed_model(model, config, compression_state=state)
    assert type(model[0]) is nn.Linear


def test_inspection_says_how_many_zeros_there_are(tmp_path):
    """Of masks that depend on scores, thresholds or the weight itself, too."""
    compression = {
        "algorithm": "movement_sparsity",
        "params": {
            "warmup_start_epoch": 0,
            "warmup_end_epoch": 4,
            "steps_per_epoch": 4,
            "importance_regularization_factor": 0.1,
            "enable_structured_masking": False,
            "init_importance_threshold": -0.1,
            "final_importance_threshold": 0.05,
        },
    }
    controller, model, x = compressed(compression)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        controller.scheduler.epoch_step()
        for _ in range(4):
            controller.scheduler.step()
            optimizer.zero_grad()
            (model(x).square().mean() + controller.loss()).backward()
            optimizer.step()
    controller.save_checkpoint(tmp_path / "c.safetensors")
    with pytest.warns(UserWarning, match="has not reached its target"):
        plain = controller.strip()
    zeros = {name: float((value == 0).float().mean()) for name, value in plain.named_parameters()}
    table = describe(tmp_path / "c.safetensors")[1]
    shown = [row[-1].split("%")[0] for row in table.rows]
    assert shown == [f"{100 * zeros[name]:.1f}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    assert zeros["0.weight"] > 0.5


READ = [lambda h: h.real, lambda h: h.T.T, lambda h: h.mT.mT, lambda h: torch.fft.ifft(torch.fft.fft(h)).real]


@pytest.mark.parametrize("read", READ)
def test_a_property_read_in_forward_does_not_break_copies(tmp_path, read):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.b(read(torch.relu(self.a(x))))

    controller, model, x = compressed(model=Net())
    model.eval()
    assert torch.allclose(controller.strip()(x), model(x), atol=1e-6)
    controller.pack(tmp_path / "x.ncp")
    controller.save_checkpoint(tmp_path / "x.safetensors")
    controller.export_model(tmp_path / "x.onnx")
    session = ort.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert np.abs(found - model(x).detach().numpy()).max() < 1e-3


ALGORITHMS = [
    QUANTIZATION,
    SPARSE,
    ROUNDS,
    TWO_OF_FOUR,
    {"algorithm": "rb_sparsity", "params": {"schedule": "multistep", "multistep_sparsity_levels": [0.5], "multistep_steps": []}},
    {"algorithm": "const_sparsity"},
    {"algorithm": "weight_clustering"},
    {"algorithm": "clip_q"},
]


@pytest.mark.parametrize("compression", ALGORITHMS, ids=lambda compression: compression["algorithm"])
@pytest.mark.parametrize(("value", "words"), [("nan", "NaN"), ("inf", "infinite")])
def test_weights_that_are_not_finite_are_named(compression, value, words):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[2].weight[1, 3] = float(value)
    with pytest.raises(ConfigError, match=rf"Linear\[2\].*\|weight has NaN or infinite values, .* 1 of 128 numbers are {words}"):
        compressed(compression, model=model)
    assert type(model[0]) is nn.Linear


def test_models_without_values_and_weights_without_elements():
    with pytest.raises(ValueError, match="0.weight: found a lazy parameter without shape"):
        compressed(model=nn.Sequential(nn.LazyLinear(4)))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(16, 4))
    with pytest.raises(ValueError, match="0.weight: found a tensor on the device meta"):
        compressed(model=model)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(16, 4)))
    with pytest.raises(ValueError, match="1: found a ScriptModule"):
        compressed(model=nn.Sequential(nn.Linear(16, 16), scripted))
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(16, 0)
    controller, _, _ = compressed(SPARSE, model=nn.Sequential(nn.Linear(16, 16), empty))
    assert ("Sequential/Linear[1]/linear_0", "Gemm of an empty tensor: no operator of ONNX") in controller.plan.skipped


def test_data_that_are_not_finite_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    x = torch.full((8, 16), float("nan"))
    config = {
        "input_info": {"sample_size": [2, 16]},
        "compression": {**SPARSE, "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 8}}},
    }
    config = register_default_init_args(NNCFConfig.from_dict(config), [(x, x)])
    with pytest.raises(ConfigError, match="batch-norm adaptation: 1.running_mean: 8 of 8 numbers are NaN"):
        create_compressed_model(model, config)
    assert torch.equal(model[1].running_mean, torch.zeros(8)) and type(model[0]) is nn.Linear


def test_staged_quantizers_that_are_resumed_without_data_say_so():
    staged = {**QUANTIZATION, "params": {"activations_quant_start_epoch": 1}}
    controller, _, _ = compressed(staged)
    state = json.loads(json.dumps(controller.get_compression_state()))
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 16]}, "compression": staged})
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    controller, _ = create_compressed_model(model, config, compression_state=state)
    controller.scheduler.epoch_step()
    with pytest.warns(InitializationWarning, match="quantizers of activations begin to work with the ranges they have"):
        controller.scheduler.epoch_step()


def test_codes_and_rows_that_are_not_there_are_refused(tmp_path):
    """Kernels look them up in tables."""
    random = {"algorithm": "rb_sparsity", "params": SPARSE["params"]}
    for compression, variable, value, message in (
        ({"algorithm": "weight_clustering"}, "codes", 99, "codes: found numbers from .* to 99, expected from 0 to"),
        ({"algorithm": "weight_clustering"}, "codes", -1, "codes: found numbers from -1 to"),
        (random, "rows", 5000, "rows: found numbers from .* to 5000, expected from 0 to 1023"),
    ):
        controller, model, _ = compressed(compression)
        path = tmp_path / "c.safetensors"
        controller.save_checkpoint(path)
        tensors, state = load_checkpoint(path)
        name = next(name for name in tensors if name.endswith(variable))
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[0] = value
        save_checkpoint(path, tensors, state)
        with pytest.raises(CheckpointError, match=message):
            controller.load_checkpoint(path)
        controller.scheduler.epoch_step()


def test_a_state_that_says_otherwise_than_the_codes(tmp_path):
    controller, model, _ = compressed({"algorithm": "weight_clustering"})
    before = controller.get_compression_state()
    controller.save_checkpoint(tmp_path / "c.safetensors")
    tensors, state = load_checkpoint(tmp_path / "c.safetensors")
    state["ctrl_state"]["algorithms"]["weight_clustering"]["state"]["coded"] = not before["ctrl_state"]["algorithms"][
        "weight_clustering"
    ]["state"]["coded"]
    save_checkpoint(tmp_path / "c.safetensors", tensors, state)
    with pytest.raises(CheckpointError, match="say otherwise"):
        controller.load_checkpoint(tmp_path / "c.safetensors")
    assert controller.get_compression_state() == before
    controller.statistics()


def test_a_state_dict_with_tensors_that_cannot_be_copied_loads_nothing():
    _, model, _ = compressed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for odd in (before["2.weight"].to_sparse(), before["2.weight"].to("meta")):
        state = {name: value + 1 if value.is_floating_point() else value for name, value in before.items()} | {"2.weight": odd}
        with pytest.raises(RuntimeError, match="2.weight is a tensor without plain values"):
            load_state(model, state, is_resume=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
