"""clip_q in PyTorch: large and half-precision weights, compiled models, weights that come back, the file of the end."""

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, xp
from torch import nn

from nncf_ext import NNCFConfig, packed
from nncf_ext.algorithms.clip_q import ClipQ
from tests.contract.references.clip_q import clipped


def compressed(model, **params):
    entry = {"algorithm": "clip_q", "params": params}
    return create_compressed_model(model, NNCFConfig.from_dict({"input_info": {"sample_size": [2, 6]}, "compression": entry}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_large_weight_is_as_in_numpy(dtype):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32) * 0.02).to(dtype)
    y = ClipQ(pruning=0.7, bits=4).apply(xp, x, {"begun": torch.ones((), dtype=torch.bool)}, True)
    assert y.dtype == dtype
    expected = torch.from_numpy(clipped(x.float().numpy(), 0.7, 4)).to(dtype)
    torch.testing.assert_close(y, expected, rtol=0 if dtype in (torch.float16, torch.bfloat16) else 1e-6, atol=0)
    assert torch.equal(y == 0, expected == 0)


def test_sums_by_segment():
    x, segments = torch.tensor([1e-3, 1e6, -1e6, 0.25, 1e-3]), torch.tensor([2, 0, 0, 2, 3], dtype=torch.int32)
    assert xp.segment_sum(x, segments, 5).tolist() == pytest.approx([0, 0, 0.251, 1e-3, 0])
    assert xp.segment_sum(torch.zeros(3), torch.zeros(3, dtype=torch.int32), 2).tolist() == [0, 0]
    assert xp.segment_sum(torch.arange(5), segments, 4).tolist() == [3, 0, 3, 4]


def test_a_weight_comes_back():
    """A gradient that pushes a zero weight over the threshold makes it alive in the next forward, in a compiled model too."""
    layer = nn.Linear(6, 1, bias=False)
    layer.weight.data = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    ctrl, model = compressed(layer, pruning=0.5, bits=3)
    forward = torch.compile(model, backend="eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    ones = torch.eye(6)
    assert forward(ones).flatten().tolist() == pytest.approx([0, 0, 0, 0.4, 0.5, 0.6])
    (-0.35 * forward(ones)[0].sum()).backward()
    optimizer.step()
    assert forward(ones).flatten().tolist() == pytest.approx([0.45, 0, 0, 0, 0.5, 0.6])
    assert ctrl.strip().weight.tolist()[0] == pytest.approx([0.45, 0, 0, 0, 0.5, 0.6])


def test_from_an_epoch_on_to_a_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    before = model[0].weight.detach().clone()
    ctrl, model = compressed(model, pruning=0.75, bits=3, start_epoch=1, by_scope={"{re}2": {"pruning": 0.5, "bits": 2}})
    with pytest.warns(UserWarning, match="clip_q has not reached its target: found it not begun, expected from epoch 1 on"):
        assert torch.equal(ctrl.strip()[0].weight, before)
    assert ctrl.statistics().clip_q.layers == ()
    for _ in range(2):
        ctrl.scheduler.epoch_step()
    first, second = ctrl.statistics().clip_q.layers
    assert (first.pruning, first.bits, second.pruning, second.bits) == (0.75, 3, 0.5, 2)
    assert first.sparsity == pytest.approx(0.75, abs=2 / 384) and 3 < first.values < 8 and second.values <= 3
    saved = 1 - (384 * (1 - first.sparsity) * 3 + 192 * (1 - second.sparsity) * 2) / (32 * 576)
    assert ctrl.statistics().clip_q.saved == pytest.approx(saved)
    assert ctrl.export_model(tmp_path / "model.onnx").difference < 1e-5
    ctrl.pack(tmp_path / "model.ncp")
    weight = packed.load(tmp_path / "model.ncp")["0.weight"]
    assert len(np.unique(weight[weight != 0])) == first.values
    np.testing.assert_array_equal(weight, ctrl.strip()[0].weight.detach().numpy())
    assert packed.Packed(tmp_path / "model.ncp").stored_bytes("0.weight") < 384 * 4 / 10
