"""The report beside an exported file: what the model differs from itself, and files that are worse."""

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.export import ExportWarning
from nncf_ext.export import model as export
from nncf_ext.export.marked import Levels


class Stochastic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(16, 8), nn.Linear(4, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.randn_like(spread) * torch.exp(spread)), mean


def compressed(model, x):
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    return create_compressed_model(model, register_default_init_args(config, [(x, 0)]))


def test_of_random_outputs_the_report_says_so(tmp_path):
    ctrl, _ = compressed(Stochastic(), torch.randn(32, 16))
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report.random == (0,) and report.exact and report.unoptimized < 2 * report.step
    assert "output 0 cannot be compared: random" in str(report)


def test_a_file_with_other_weights_is_told_and_the_model_stays(tmp_path, monkeypatch):
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(32, 16)
    ctrl, model = compressed(model, x)
    before, y = {name: value.clone() for name, value in model.state_dict().items()}, model(x)
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report.exact and 0 <= report.own < 4 * report.step and "as exact as the model itself" in str(report)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and torch.equal(model(x), y)

    grids = export.grids

    def narrower(adapter, attached):
        found = grids(adapter, attached)
        key = next(edit.key for edit in attached.plan if edit.site.is_parameter)
        low, step = found[key].low, found[key].step
        return {**found, key: Levels(low, step / 2, found[key].intervals)}  # cuts what is beyond a half

    monkeypatch.setattr(export, "grids", narrower)
    with pytest.warns(ExportWarning, match="worse than the model itself .* does not compute what the model computes"):
        assert not ctrl.export_model(tmp_path / "broken.onnx").exact


class Above(nn.Module):
    """The rows that are above zero: of x and -x with weights of one and minus one, the last place of a weight decides."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.score.weight, 0.7)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.score(x)
        return x[scores[:, 0] > 0], scores


def test_outputs_whose_size_numbers_decide_are_compared_where_it_is_the_same(tmp_path):
    sure = torch.tensor([[1.0, 2.0], [-1.0, -3.0], [2.0, 0.5]])
    for x, varying in ((sure, ()), (torch.tensor([[1.0, -1.0], [-1.0, 1.0], [2.0, 0.5]]), (0,))):
        config = NNCFConfig.from_dict({"compression": {"algorithm": "const_sparsity"}})
        ctrl, _ = create_compressed_model(Above(), register_default_init_args(config, [(x, 0)]))
        report = ctrl.export_model(tmp_path / "model.onnx")
        assert report.varying == varying and report.exact and report.samples == 3
        assert ("output 0 cannot be compared: numbers decide about the size" in str(report)) == bool(varying)
