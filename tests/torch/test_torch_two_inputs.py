"""A model with two inputs and two sums: which of its tensors are quantized, with how many ranges, and what the file computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.inner = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        x = self.left(image) + self.right(depth)
        return self.head((self.inner(x) + x).mean((2, 3)))


def compressed(**keys: Any) -> Any:
    torch.manual_seed(0)
    infos = [{"sample_size": [1, 3, 8, 8]}, {"sample_size": [1, 1, 8, 8], "keyword": "depth"}]
    entry = {"algorithm": "quantization", "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}, **keys}
    config = NNCFConfig.from_dict({"input_info": infos, "compression": entry})
    data = [((torch.randn(4, 3, 8, 8), 3 * torch.rand(4, 1, 8, 8)), torch.zeros(4)) for _ in range(2)]
    return create_compressed_model(Net(), register_default_init_args(config, data))[0]


def activations(ctrl: Any) -> dict[str, str]:
    """Sites by their own name: `/nncf_model_input_0`, `conv2d_0|output`, ..."""
    return {str(edit.site): "=".join(str(site) for site in edit.sites) for edit in ctrl.plan if not edit.site.is_parameter}


def test_inputs_and_outputs(tmp_path) -> None:
    ctrl = compressed()
    inputs = {"/nncf_model_input_0|output", "/nncf_model_input_1|output"}
    assert inputs <= set(activations(ctrl))
    by_site = {
        str(edit.site): ctrl.variable_values(edit)["scale"].item() for edit in ctrl.plan if edit.transform.channel_axis is None
    }
    assert by_site["/nncf_model_input_1|output"] == pytest.approx(3, rel=0.05)  # each input has a range of its own
    assert ctrl.export_model(tmp_path / "model.onnx").lsb <= 1

    without = activations(compressed(quantize_inputs=False))
    assert not inputs & set(without) and set(without) == set(activations(ctrl)) - inputs

    with_outputs = compressed(quantize_outputs=True)
    assert set(activations(with_outputs)) - set(activations(ctrl)) == {"Net/Linear[head]/linear_0|output"}
    assert with_outputs.export_model(tmp_path / "outputs.onnx").lsb <= 1
    one = activations(compressed(ignored_scopes=["/nncf_model_input_1"]))
    assert inputs & set(one) == {"/nncf_model_input_0|output"}


def test_one_range_for_both_sums(tmp_path) -> None:
    ctrl = compressed(activations={"unified_scale_ops": [["Net/__add___0", "Net/__add___1"]]})
    (shared,) = [edit for edit in ctrl.plan if len(edit.sites) > 1]
    assert len(shared.sites) == len([s for s in activations(compressed()) if "conv2d" in s or "add___0" in s])
    assert len(ctrl.variable_values(shared)["scale"].ravel()) == 1
    assert ctrl.export_model(tmp_path / "model.onnx").lsb <= 1.5  # one code of the pooled tensor makes 1.3 in the outputs
    model = ctrl.model.train()
    model(torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert ctrl._attached.variables(shared)["scale"].grad.abs() > 0
