"""The quantizers that a config can choose: their files give what the model gives, and groups do what their parts would do."""

import numpy as np
import onnx
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args, xp
from torch import nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.quantization.quantizers.groups import GroupQuantizer
from nncf_ext.quantization.quantizers.uniform import NNCFQuantizer
from tests.quantizer_exports import EXPORTS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.bn = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.c(x))).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


@pytest.fixture(scope="module")
def batches():
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 1, 6, 6, generator=rng), torch.zeros(16)) for _ in range(2)]


def compressed(compression, batches):
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 6, 6]}, "compression": compression})
    return create_compressed_model(Net(), register_default_init_args(config, batches))


def trained(compression, batches):
    ctrl, model = compressed(compression, batches)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for x, _ in batches * 2:
        optimizer.zero_grad()
        (model.train()(x).square().mean() + ctrl.loss()).backward()
        optimizer.step()
    return ctrl, model.eval()


@pytest.mark.parametrize("name", EXPORTS)
def test_the_file_gives_what_the_model_gives(name, batches, tmp_path):
    ctrl, model = trained(EXPORTS[name], batches)
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report.unoptimized / report.step < 4  # codes of activations differ by one at ties, and add up
    assert report.lsb < 4 or not report.exact_optimized  # processors without VNNI saturate: the report says so
    with torch.no_grad():
        y = ctrl.strip()(batches[0][0])
        assert torch.isfinite(y).all()
    del model


def test_groups_are_int4_in_the_file_which_is_smaller_for_it(batches, tmp_path):
    sizes = {}
    for name in ("groups", "lsq"):
        compressed(EXPORTS[name], batches)[0].export_model(tmp_path / f"{name}.onnx")
        sizes[name] = (tmp_path / f"{name}.onnx").stat().st_size
    weights = 128 * 64 + 64 * 10
    assert sizes["lsq"] - sizes["groups"] > 0.3 * weights  # half a byte of each, less the scales
    graph = onnx.load(tmp_path / "groups.onnx").graph
    blocks = [n for n in graph.node for a in n.attribute if a.name == "block_size" and a.i == 32]
    types = {i.name: i.data_type for i in graph.initializer}
    assert [types[n.input[0]] for n in blocks] == [onnx.TensorProto.INT4] * 2


def test_an_opset_without_such_operators_is_refused(batches, tmp_path):
    ctrl, _ = compressed(EXPORTS["groups"], batches)
    with pytest.raises(ValueError, match="opset 18: the quantizers of this model need .* opset 21"):
        ctrl.export_model(tmp_path / "model.onnx", "onnx_18")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_group_is_quantized_as_a_weight_of_its_own(symmetric):
    """Values, gradients by values and by bounds: as 2-dimensional pieces with a range per channel."""
    rng = np.random.default_rng(0)
    weight, g = (torch.tensor(rng.normal(size=(5, 64)), dtype=torch.float32) for _ in range(2))
    groups = GroupQuantizer(bits=4, symmetric=symmetric, group_size=32, axis=1)
    single = NNCFQuantizer(bits=4, symmetric=symmetric, signed=symmetric, channel_axis=0)
    size = torch.tensor(rng.uniform(1, 2, (5, 2)), dtype=torch.float32)
    start = {"scale": size} if symmetric else {"low": -0.6 * size, "span": size}

    def run(transform, x, variables):
        leaves = {"x": x, **variables}
        leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
        y = transform.apply(xp, leaves["x"], {name: leaves[name] for name in variables}, True)
        return y, leaves

    y, leaves = run(groups, weight, start)
    (y * g).sum().backward()
    for part in range(2):
        at = slice(32 * part, 32 * part + 32)
        y1, own = run(single, weight[:, at], {name: value[:, part : part + 1] for name, value in start.items()})
        (y1 * g[:, at]).sum().backward()
        assert torch.equal(y[:, at], y1)
        torch.testing.assert_close(leaves["x"].grad[:, at], own["x"].grad)
        for name in start:
            torch.testing.assert_close(leaves[name].grad[:, part : part + 1], own[name].grad)


@pytest.mark.parametrize("name", ["groups", "groups_asymmetric"])
def test_groups_resume(name, batches, tmp_path):
    ctrl, model = trained(EXPORTS[name], batches)
    ctrl.save_checkpoint(tmp_path / "state.safetensors")
    other, resumed = compressed(EXPORTS[name], batches)
    other.load_checkpoint(tmp_path / "state.safetensors")
    with torch.no_grad():
        assert torch.equal(model(batches[0][0]), resumed.eval()(batches[0][0]))
        torch.testing.assert_close(model(batches[0][0]), resumed(batches[0][0]))


@pytest.mark.parametrize(
    "weights, words",
    [
        ({"bits": 4, "group_size": 32}, "group_size: found 32 for .* of shape .*, expected linear layers only"),
        ({"quantizer": "lsq", "group_size": 32}, "group_size: found 32 for .*, which has no such key"),
    ],
)
def test_groups_where_there_are_none(weights, words, batches):
    with pytest.raises(ConfigError, match=words):
        compressed({"algorithm": "quantization", "weights": weights}, batches)


def test_groups_that_do_not_divide(batches):
    overrides = {"weights": {"{re}fc2": {"group_size": 128}}}
    with pytest.raises(ConfigError, match=r"group_size: found 128 for the 64 inputs of .*fc2.*, expected a divisor"):
        compressed({"algorithm": "quantization", "scope_overrides": overrides}, batches)


def test_the_clipping_levels_are_in_the_loss(batches):
    """Choi et al. 2018, section 3.1: the factor times the sum of squares."""
    ctrl, _ = compressed(
        {"algorithm": "quantization", "activations": {"quantizer": "pact", "clipping_regularization_factor": 0.5}}, batches
    )
    clips = [ctrl.variable_values(e)["clip"].item() for e in ctrl.plan if e.transform.kind == "pact" and e.transform.learned]
    assert len(clips) == 2
    assert float(ctrl.loss().detach()) == pytest.approx(0.5 * sum(clip**2 for clip in clips), rel=1e-6)
