"""Damaged files, odd numbers, threads: nothing half done, and one sentence."""

import threading

import numpy as np
import onnxruntime as ort
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import load_checkpoint
from nncf_ext.packed import load

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
