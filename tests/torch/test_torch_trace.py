"""Capture: operators, their names, types, parameters and edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch.trace import Argument, ExampleInput, TorchTrace, trace
from torch import Tensor, nn

from benchmarks import models_torch
from nncf_ext.graph import Parameter

IMAGE = ExampleInput((torch.zeros(1, 3, 64, 64),))
PIXELS = ExampleInput((), {"pixel_values": torch.zeros(1, 3, 64, 64)})
TOKENS = ExampleInput((), {"input_ids": torch.arange(8)[None]})

ADDED = {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}  # parameters that are added, not multiplied with
# Operators with weights, counted by hand from the architectures.
MODELS: list[tuple[Callable[[], Any], ExampleInput, dict[str, int]]] = [
    (models_torch.resnet18, IMAGE, {"Conv": 20, "BatchNormalization": 20, "Relu": 17, "Add": 8, "Gemm": 1, "MaxPool": 1}),
    (models_torch.resnet50, IMAGE, {"Conv": 53, "BatchNormalization": 53, "Relu": 49, "Add": 16, "Gemm": 1}),
    (models_torch.mobilenet_v2, IMAGE, {"Conv": 52, "BatchNormalization": 52, "Clip": 35, "Add": 10, "Gemm": 1}),
    (lambda: models_torch.bert(2, 64), TOKENS, {"Gemm": 2 * 6 + 2, "Attention": 2, "LayerNormalization": 5, "Gelu": 2}),
    (lambda: models_torch.vit(2, 64), PIXELS, {"Conv": 1, "Gemm": 2 * 6 + 1, "Attention": 2, "LayerNormalization": 5}),
    (lambda: models_torch.llama(2, 64), TOKENS, {"MatMul": 2 * 7 + 1, "Attention": 2, "Swish": 2}),
    (models_torch.hf_resnet, IMAGE, {"Conv": 11, "BatchNormalization": 11, "Gemm": 1}),
    (models_torch.hf_mobilenet_v2, IMAGE, {"Conv": 52, "BatchNormalization": 52, "Pad": 52, "Gemm": 1}),
]


@pytest.mark.parametrize(("build", "example", "operators"), MODELS, ids=lambda value: getattr(value, "__name__", ""))
def test_models_are_captured_whole(build: Callable[[], Any], example: ExampleInput, operators: dict[str, int]) -> None:
    model = build()
    graph = trace(model, example).graph
    found = Counter(node.op for node in graph.nodes)
    assert {op: found[op] for op in operators} == operators
    assert found["Input"] == found["Output"] == 1
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert matrices <= {p.name for node in graph.nodes for p in node.parameters} | ADDED
    assert all(edge.source in graph.by_name and edge.target in graph.by_name for edge in graph.edges)
    assert graph.inputs_of["/nncf_model_output_0"]


def test_model_is_left_as_it_was() -> None:
    model = models_torch.resnet18()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, IMAGE)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_go_when_the_forward_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        trace(model, ExampleInput((torch.zeros(1, 3),)))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.table = nn.Embedding(10, 4)

    def forward(self, x: Tensor, index: Tensor) -> dict[str, Tensor]:
        y = self.relu(self.conv(x))
        z = self.relu(y.mean((2, 3)))
        z += y.sum((2, 3))
        looked_up = F.linear(z, self.table.weight)
        return {"scores": looked_up, "rows": torch.cat([self.table(index), z], dim=1)}


@pytest.fixture
def traced() -> TorchTrace:
    return trace(Block(), ExampleInput((torch.ones(2, 4, 8, 8),), {"index": torch.tensor([1, 2])}))


def test_names_and_types(traced: TorchTrace) -> None:
    assert [(node.name, node.op) for node in traced.graph.nodes] == [
        ("/nncf_model_input_0", "Input"),
        ("/nncf_model_input_1", "Input"),
        ("Block/Conv2d[conv]/conv2d_0", "Conv"),
        ("Block/ReLU[relu]/relu_0", "Relu"),
        ("Block/mean_0", "ReduceMean"),
        ("Block/ReLU[relu]/relu_1", "Relu"),
        ("Block/sum_0", "ReduceSum"),
        ("Block/__iadd___0", "Add"),
        ("Block/linear_0", "MatMul"),
        ("Block/Embedding[table]/embedding_0", "Gather"),
        ("Block/cat_0", "Concat"),
        ("/nncf_model_output_0", "Output"),
        ("/nncf_model_output_1", "Output"),
    ]


def test_parameters_and_attributes(traced: TorchTrace) -> None:
    conv = traced.graph["Block/Conv2d[conv]/conv2d_0"]
    assert conv.parameters == (Parameter("weight", "conv.weight", (4, 1, 3, 3), channel_axis=0, port=1, input_axis=1),)
    assert dict(conv.attrs) == {
        "groups": 4,
        "kernel": (3, 3),
        "strides": (2, 2),
        "pads": (1, 1, 1, 1),
        "dilations": (1, 1),
        "depthwise": True,
    }
    assert traced.graph["Block/linear_0"].parameters[0] == Parameter("weight", "table.weight", (10, 4), 0, 1, input_axis=1)
    assert traced.graph["Block/Embedding[table]/embedding_0"].parameters[0] == Parameter("weight", "table.weight", (10, 4), 1, 0)
    assert traced.graph["Block/cat_0"].attrs["axis"] == 1


def test_edges(traced: TorchTrace) -> None:
    add = [(edge.source, edge.target_port, edge.shape) for edge in traced.graph.inputs_of["Block/__iadd___0"]]
    assert add == [("Block/ReLU[relu]/relu_1", 0, (2, 4)), ("Block/sum_0", 1, (2, 4))]
    (indices,) = traced.graph.inputs_of["Block/Embedding[table]/embedding_0"]
    assert (indices.source, indices.target_port, indices.dtype) == ("/nncf_model_input_1", 1, "int64")


def test_calls(traced: TorchTrace) -> None:
    conv = traced.calls["Block/Conv2d[conv]/conv2d_0"]
    assert conv.whole_module and conv.container == "conv" and conv.inputs == {0: Argument(0, "input")}
    relu = traced.calls["Block/ReLU[relu]/relu_1"]  # of a module that runs twice: found from the outside
    assert (relu.whole_module, relu.container, relu.index) == (False, "", 1)
    assert traced.totals["", F.relu] == 2
    assert traced.calls["Block/cat_0"].inputs[1] == Argument(0, None, (1,))


def test_the_model_must_run_exactly_once() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="ran Linear 2 times; expected exactly once"):
        trace(model, lambda m: (m(torch.ones(1, 2)), m(torch.ones(1, 2))))
    with pytest.raises(ValueError, match="0 times"):
        trace(model, lambda m: None)
    assert len(trace(model, lambda m: m(torch.ones(1, 2))).graph.nodes) == 3


def test_the_example_follows_the_model_to_another_device() -> None:
    traced = trace(nn.Linear(2, 2).to("meta"), ExampleInput((torch.ones(1, 2),)))
    assert [node.op for node in traced.graph.nodes] == ["Input", "Gemm", "Output"]


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        y, _ = self.attention(y, y, y, need_weights=False)
        return torch.roll(y, 1)


def test_unknown_operators_are_opaque_and_attention_is_unfolded() -> None:
    graph = trace(Opaque(), ExampleInput((torch.ones(1, 3, 4),))).graph
    lstm = graph["Opaque/LSTM[lstm]/lstm_0"]
    axes = {p.slot: (p.port, p.channel_axis, p.input_axis) for p in lstm.parameters}
    assert (lstm.op, axes["weight_ih_l0"], axes["weight_hh_l0"], axes["bias_ih_l0"]) == (
        "LSTM",
        (1, 0, 1),
        (2, 0, 1),
        (3, 0, None),
    )
    assert graph["Opaque/roll_0"].op == "roll"
    projections = [p.name for node in graph.nodes if node.op == "Gemm" for p in node.parameters if p.slot == "weight"]
    assert projections == ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert [node.op for node in graph.nodes].count("Attention") == 1
    assert ("attention.in_proj_weight", "attention.in_proj_bias") in [node.attrs.get("reads") for node in graph.nodes]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return self.dropout(y) - y


def test_readers_of_an_argument_that_is_returned_unchanged() -> None:
    graph = trace(Branches(), ExampleInput((torch.ones(2),))).graph
    sources = [edge.source for edge in graph.inputs_of["Branches/__sub___0"]]
    assert sources == ["Branches/Dropout[dropout]/dropout_0", "Branches/__mul___0"]
