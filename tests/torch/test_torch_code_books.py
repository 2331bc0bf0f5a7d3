"""Weights that share the values of a code book, in PyTorch: weighting, zeros, odd layers, the whole chain to a packed file."""

import copy
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from nncf_ext_torch import code_kernels, create_compressed_model, native, register_default_init_args, xp
from torch import nn

from nncf_ext import ConfigError, NNCFConfig, numerics, packed
from nncf_ext.algorithm import CompressionStage
from tests import weighting_toy


def compressed(model, compression, loader=None, **criterion):
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, model[0].in_features]}, "compression": compression})
    if loader is not None:
        register_default_init_args(config, loader, **criterion)
    return create_compressed_model(model, config)


def clustering(**params):
    return {"algorithm": "weight_clustering", "params": params}


def toy():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weighting_toy.WEIGHTS))
    return model


TOY_DATA = [(torch.tensor(weighting_toy.INPUTS), torch.tensor(weighting_toy.TARGETS))]


@pytest.mark.parametrize("weighting", ["squared_gradients", "hutchinson"])
def test_weighting_by_the_hessian(weighting):
    ctrl, model = compressed(toy(), clustering(clusters=1, weighting=weighting), TOY_DATA, criterion=nn.MSELoss())
    found = ctrl.variable_values(next(iter(ctrl.plan)))["centroids"]
    assert found == pytest.approx([weighting_toy.mean_weighted_by_the_hessian()], rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_weighting_by_the_optimizers_second_moment(optimizer):
    ctrl, model = compressed(toy(), clustering(clusters=1, weighting="adam", start_epoch=1))
    steps = optimizer(model.parameters(), 0.01)
    ctrl.scheduler.epoch_step()
    nn.functional.mse_loss(model(TOY_DATA[0][0]), TOY_DATA[0][1]).backward()
    steps.step()
    raw = model[0].weight.detach().numpy().ravel()
    ctrl.scheduler.epoch_step()
    found = ctrl.variable_values(next(iter(ctrl.plan)))["centroids"]
    assert found == pytest.approx([weighting_toy.mean_weighted_by_the_first_step_of_adam(raw)], rel=1e-4)


def test_weighting_without_what_it_needs():
    model = toy()
    with pytest.raises(ConfigError, match="'hutchinson' needs labelled data and a loss: give register_default_init_args"):
        compressed(model, clustering(weighting="hutchinson"))
    assert type(model[0]) is nn.Linear
    ctrl, model = compressed(model, clustering(weighting="adam", start_epoch=1))
    steps = torch.optim.SGD(model.parameters(), 0.01)
    ctrl.scheduler.epoch_step()
    model(TOY_DATA[0][0]).sum().backward()
    steps.step()
    with pytest.raises(ConfigError, match="found no optimizer that keeps second moments of .*, expected Adam"):
        ctrl.scheduler.epoch_step()


def wide(rows=None):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(48).reshape(8, 6) / 16 - 1.5 if rows is None else torch.as_tensor(rows))
    return model


@pytest.mark.parametrize("entry", [clustering(clusters=64), {"algorithm": "ecsq", "params": {"target_bits": 9, "levels": 65}}])
def test_as_many_values_as_there_are(entry):
    model = wide()
    before = model[0].weight.detach().numpy().copy()
    ctrl, model = compressed(model, entry)
    np.testing.assert_allclose(
        ctrl.strip()[0].weight.detach().numpy(), before, atol=1e-7 if "clusters" in entry["params"] else 0.03
    )


@pytest.mark.parametrize("entry", [clustering(clusters=4), {"algorithm": "ecsq", "params": {"target_bits": 1.5}}])
@pytest.mark.parametrize("value", [0.0, 0.75])
def test_a_layer_of_one_value(entry, value):
    ctrl, _ = compressed(wide(np.full((8, 6), value, np.float32)), entry)
    assert (ctrl.strip()[0].weight == value).all()
    layer = ctrl.statistics().reports[entry["algorithm"]].layers[0]
    assert (layer.values, layer.bits, layer.zeros) == ((0, 0, 1) if value == 0 else (1, 0, 0))


def test_too_few_bits_for_a_layer():
    model = wide(np.full((8, 6), 1e-3, np.float32))
    with pytest.raises(ConfigError, match="compression: all 48 weights of .* would be zero, expected more bits"):
        compressed(model, {"algorithm": "ecsq", "params": {"lagrangian": 5.0}})
    assert type(model[0]) is nn.Linear


def test_weights_that_are_no_numbers():
    model = wide(np.full((8, 6), np.nan, np.float32))
    with pytest.raises(ConfigError, match=r"compression: .*\|weight has NaN or infinite values, expected numbers"):
        compressed(model, clustering(clusters=4))
    assert type(model[0]) is nn.Linear


@pytest.mark.filterwarnings("ignore:.* has not reached its target:UserWarning")  # it is looked at on its way
def test_what_is_masked_later_is_zero():
    levels = {"schedule": "multistep", "multistep_steps": [2], "multistep_sparsity_levels": [0.2, 0.7]}
    ctrl, model = compressed(
        wide(), [{"algorithm": "magnitude_sparsity", "params": levels}, clustering(clusters=4, start_epoch=1)]
    )
    zeros = []
    for _ in range(3):
        ctrl.scheduler.epoch_step()
        zeros.append(sum(int((layer.weight == 0).sum()) for layer in ctrl.strip() if isinstance(layer, nn.Linear)))
    assert zeros == [14, 14, 50]
    assert len(ctrl.strip()[0].weight.unique()) <= 5
    assert ctrl.compression_stage() == CompressionStage.FULLY_COMPRESSED


@pytest.mark.parametrize(
    "entry",
    [clustering(clusters=5, start_epoch=1), {"algorithm": "ecsq", "params": {"target_bits": 2, "start_epoch": 1}}],
)
def test_chain_from_one_config_to_a_packed_file_that_runs(entry, tmp_path):
    """Prune, code, train on, pack, unpack, run: the answers of the file are those of the model."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    model = wide(torch.randn(8, 6))
    float_bytes = sum(p.numel() for p in model.parameters()) * 4
    ctrl, model = compressed(
        model, [{"algorithm": "magnitude_sparsity", "sparsity_init": 0.5, "params": {"sparsity_target": 0.5}}, entry]
    )
    steps = torch.optim.Adam(model.parameters(), 0.01)
    codes = []
    for _ in range(3):
        ctrl.scheduler.epoch_step()
        codes.append([ctrl.variable_values(e).get("codes") for e in ctrl.plan])
        for _ in range(3):
            ctrl.scheduler.step()
            steps.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            steps.step()
    assert all(a is None or np.array_equal(a, b) for a, b in zip(codes[1], codes[2], strict=True))
    ctrl.export_model(tmp_path / "model.onnx")
    packed.pack_file(tmp_path / "model.onnx", tmp_path / "onnx.ncp")
    packed.unpack_file(tmp_path / "onnx.ncp", tmp_path / "again.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "again.onnx"), providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(answers, model.eval()(x).detach().numpy(), atol=1e-5)
    ctrl.pack(tmp_path / "model.ncp")
    weights = packed.load(tmp_path / "model.ncp")
    np.testing.assert_array_equal(weights["0.weight"], ctrl.strip()[0].weight.detach().numpy())
    assert packed.Packed(tmp_path / "model.ncp").stored_bytes("0.weight") < float_bytes / 4


def test_copies_and_compiled_models():
    ctrl, model = compressed(wide(), clustering(clusters=3))
    x = torch.randn(5, 6)
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
    model(x).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not gradients["0.weight"].any()
    assert all(g.any() for name, g in gradients.items() if "centroids" in name)


COMPOSITE = SimpleNamespace(**{name: getattr(xp, name) for name in dir(xp) if name != "fused"})


@pytest.mark.skipif(native.library() is None, reason="the compiled kernels were not built")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("shape", [(1,), (7, 3), (300, 1000)], ids=str)
def test_the_kernel_is_the_composite(shape, coded, threads):
    torch.manual_seed(0)
    x, g, centroids = torch.randn(shape), torch.randn(shape), torch.randn(9)
    x[torch.rand(shape) < 0.2] = 0
    codes = torch.randint(0, 10, shape, dtype=torch.int32) if coded else torch.full(shape, -1, dtype=torch.int32)
    results = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for space in (xp, COMPOSITE):
            leaves = x.clone().requires_grad_(), centroids.clone().requires_grad_()
            y = numerics.decoded(space, leaves[0], codes, leaves[1])
            y.backward(g)
            results.append((y.detach(), *(leaf.grad for leaf in leaves)))
    finally:
        torch.set_num_threads(before)
    (y, dx, sums), (y0, dx0, sums0) = results
    assert torch.equal(y, y0) and torch.equal(dx, dx0)
    torch.testing.assert_close(sums, sums0, rtol=1e-4, atol=2e-3)
    assert code_kernels.decoded(x, codes, centroids) is not None
    assert code_kernels.decoded(x.double(), codes, centroids) is None
