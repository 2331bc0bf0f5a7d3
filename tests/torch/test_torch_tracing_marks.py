"""NNCF's marks for the tracing of a model."""

import torch
from nncf_ext_torch import (
    create_compressed_model,
    disable_tracing,
    nncf_model_input,
    nncf_model_output,
    no_nncf_trace,
    register_module,
    register_operator,
)
from torch import nn

from nncf_ext import NNCFConfig

CONFIG = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": {"algorithm": "quantization"}})


@register_operator("my_gelu")
def gelu_twice(x, scale=1.0):
    return nn.functional.gelu(nn.functional.gelu(x)) * scale


class Helper:
    @disable_tracing
    def offset(self, x):
        return torch.sigmoid(x) * 0


@register_module("quantization")
class Own(nn.Linear):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Own(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = nncf_model_input(x)
        with no_nncf_trace():
            shift = torch.tanh(x).mean()
        x = gelu_twice(self.a(x), scale=2.0) + Helper().offset(x) + shift
        return nncf_model_output(self.b(x))


def test_marked_code_is_left_out_of_the_graph_and_runs_as_before():
    torch.manual_seed(0)
    model = Net()
    x = torch.rand(5, 4)
    expected = model(x)
    ctrl, model = create_compressed_model(model, CONFIG)
    operators = [site.node.split("/")[-1] for edit in ctrl.plan for site in edit.sites]
    assert not any(name.startswith(("tanh", "mean", "sigmoid", "mul", "gelu")) for name in operators)
    assert any("Own[a]/linear_0" in site.node for edit in ctrl.plan for site in edit.sites)
    assert ("Net/my_gelu_0", "my_gelu: no operator of ONNX") in ctrl.plan.skipped
    model.train()
    loss = model(x).square().sum()
    loss.backward()
    assert torch.isfinite(loss) and (model(x) - expected).abs().max() < 0.3
    assert torch.allclose(ctrl.strip()(x), expected, atol=0.1)
