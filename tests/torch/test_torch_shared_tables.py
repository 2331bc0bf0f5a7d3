"""Embedding tables and activations behind one quantizer, as in recommenders: one range holds all, whatever their ranks."""

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig


class DLRM(nn.Module):
    """Two-dimensional tables and three-dimensional interactions meet in one range."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 8) for n in (10, 20))
        self.bottom, self.top = nn.Linear(3, 8), nn.Linear(17, 1)

    def forward(self, x: torch.Tensor, *ids: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bottom(x))
        together = torch.stack([x, *(table(i) for table, i in zip(self.tables, ids, strict=True))], 1)
        return self.top(torch.cat([x, torch.bmm(together, together.transpose(1, 2)).flatten(1)], 1))


class WideDeep(nn.Module):
    """Numbers of the input and tables of different widths meet in one range."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, width) for n, width in ((10, 4), (20, 2)))
        self.top = nn.Linear(9, 1)

    def forward(self, x: torch.Tensor, *ids: torch.Tensor) -> torch.Tensor:
        return self.top(torch.cat([x, *(table(i) for table, i in zip(self.tables, ids, strict=True))], 1))


@pytest.mark.parametrize("kind", [DLRM, WideDeep])
def test_one_range_holds_tables_and_activations(kind, tmp_path):
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        model.tables[1].weight.mul_(3)
    largest = float(model.tables[1].weight.detach().abs().max())
    batch = (torch.randn(8, 3), torch.randint(0, 10, (8,)), torch.randint(0, 20, (8,)))
    with torch.no_grad():
        expected = model(*batch)
    entry = {"algorithm": "quantization", "weights": {"per_channel": True}, "initializer": {"range": {"type": "min_max"}}}
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entry}), [(batch, 0)])
    ctrl, model = create_compressed_model(model, config)
    shared = next(edit for edit in ctrl.plan if sum(site.is_parameter for site in edit.sites) == 2)
    scale = ctrl.variable_values(shared)["scale"]
    assert scale.size == 1 and float(scale.item()) >= largest * (1 - 1e-6)
    with torch.no_grad():
        # the products of DLRM are far larger than its tables, and share their range
        assert (model.eval()(*batch) - expected).abs().max() < (0.25 if kind is DLRM else 0.1) * expected.abs().max()
    model.train()(*batch).sum().backward()
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report.exact and report.unoptimized < 2 * report.step
