"""Placement over traced torch models, compared with what `nncf.quantize` of NNCF 3.4 places in the same models.

Both sides number the calls of each Python function in execution order, so an operator is named ("conv2d", 3) on both, and a place
is that name with a port of the torch function, or None for its output. Places and modes must be equal, with these exceptions:

* SmoothQuant and bias correction are switched off in NNCF. They rescale weights; SmoothQuant also puts a multiplication before
  the Linears of a transformer, and NNCF then quantizes its result in place of its operand.
* NNCF quantizes the input of a depthwise convolution per channel; ours, at the same place, is per tensor unless asked otherwise.
* Outside of transformers NNCF's torch backend quantizes the scale vector (gamma) of LayerNorm and GroupNorm, because it sits on a
  weight port; its ONNX backend does not, and neither do we. No runtime has an integer kernel for it.
* In transformers NNCF leaves average pooling in floating point, but its torch backend's list lacks `adaptive_avg_pool1d` (Swin).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers
from nncf_ext_torch.trace import ExampleInput, trace

from benchmarks import models_torch
from nncf_ext.graph import INPUT, Graph, Site
from nncf_ext.quantization.placement import model_type_of, place

Operator = tuple[str, int]  # function name, n-th call of it
Place = tuple[Operator, int | None]  # None: the operator's output


def placed_by_us(graph: Graph, model_type: Any) -> dict[Place, bool]:
    """Place -> whether its quantizer is symmetric."""
    calls: Counter[str] = Counter()
    operators: dict[str, Operator] = {}
    for node in graph.nodes:
        function = "input" if node.op == INPUT else node.name.rpartition("/")[2].rpartition("_")[0].strip("_")
        operators[node.name] = (function, calls[function])
        calls[function] += 1

    def place_of(site: Site) -> Place:
        operator = operators[site.node]
        port = 1 if site.is_parameter else site.port  # torch's functions take the weight as their second argument ...
        return operator, port + 1 if operator[0] == "addmm" and port is not None else port  # ... but addmm's first is the bias

    preset = "mixed" if model_type else "performance"  # nncf.quantize's own default
    return {
        place_of(site): placement.spec.mode == "symmetric"
        for placement in place(graph, preset=preset, model_type=model_type)
        for site in placement.sites
    }


def placed_by_nncf(model: torch.nn.Module, example: Any, model_type: str | None) -> dict[Place, bool]:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
    from nncf.torch.function_hook.wrapper import get_hook_storage, wrap_model
    from nncf.torch.quantization.layers import BaseQuantizer, SymmetricQuantizer

    graph = build_nncf_graph(wrap_model(model), example)
    calls: Counter[str] = Counter()
    operators: dict[str, Operator] = {}
    for node in sorted(graph.get_all_nodes(), key=lambda node: node.node_id):
        function = "input" if node.node_type == "nncf_model_input" else node.node_type.strip("_")
        operators[node.node_name] = (function, calls[function])
        calls[function] += 1
    quantized = nncf.quantize(
        model,
        nncf.Dataset([example]),
        subset_size=1,
        model_type=nncf.ModelType(model_type) if model_type else None,
        advanced_parameters=AdvancedQuantizationParameters(
            disable_bias_correction=True, smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        ),
    )
    places = {}
    for hook, module in get_hook_storage(quantized).named_hooks(remove_duplicate=False):  # "pre_hooks.<operator>__<port>.<index>"
        if isinstance(module, BaseQuantizer):
            kind, _, rest = hook.partition(".")
            operator, _, port = rest.rpartition(".")[0].rpartition("__")
            places[operators[operator], int(port) if kind == "pre_hooks" else None] = isinstance(module, SymmetricQuantizer)
    return places


def tokens() -> torch.Tensor:
    return torch.randint(0, 100, (1, 8), generator=torch.Generator().manual_seed(0))


def image(size: int) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


class TinyUNet(torch.nn.Module):
    """A Concat of a skip connection and a transposed convolution, and a GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.down2 = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm = torch.nn.GroupNorm(2, 16)
        self.up = torch.nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = torch.nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = torch.relu(self.down1(x))
        deep = torch.nn.functional.silu(self.norm(self.down2(skip)))
        return self.out(torch.cat([skip, self.up(deep)], dim=1))


CONVOLUTIONAL: Mapping[str, tuple[Callable[[], torch.nn.Module], Callable[[], dict[str, Any]]]] = {
    "resnet18": (models_torch.resnet18, lambda: {"x": image(64)}),
    "resnet50": (models_torch.resnet50, lambda: {"x": image(64)}),
    "mobilenet_v2": (models_torch.mobilenet_v2, lambda: {"x": image(64)}),
    "hf_resnet": (models_torch.hf_resnet, lambda: {"pixel_values": image(32)}),
    "hf_mobilenet_v2": (models_torch.hf_mobilenet_v2, lambda: {"pixel_values": image(64)}),
    "unet": (TinyUNet, lambda: {"x": image(16)}),
    "convnext": (
        lambda: transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
        ),
        lambda: {"pixel_values": image(32)},
    ),
}
TRANSFORMERS: Mapping[str, tuple[Callable[[], torch.nn.Module], Callable[[], dict[str, Any]]]] = {
    "bert": (
        lambda: models_torch.bert(layers=2, hidden=64),
        lambda: {"input_ids": tokens(), "attention_mask": torch.ones(1, 8, dtype=torch.int64)},
    ),
    "vit": (lambda: models_torch.vit(layers=2, hidden=64, image_size=16), lambda: {"pixel_values": image(16)}),
    "llama": (lambda: models_torch.llama(hidden=32, vocabulary=100), lambda: {"input_ids": tokens()}),
    "gpt2": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=16, use_cache=False)
        ),
        lambda: {"input_ids": tokens()},
    ),
    "swin": (
        lambda: transformers.SwinForImageClassification(
            transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
        lambda: {"pixel_values": image(32)},
    ),
    "encoder_layer": (
        lambda: torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True),
        lambda: {"src": torch.rand(1, 5, 16)},
    ),
}
ONLY_IN_NNCF: Mapping[str, set[Place]] = {
    "unet": {(("group_norm", 0), 2)},
    "convnext": {(("layer_norm", index), 2) for index in range(5)},
    "swin": {(("layer_norm", 6), None)},
}


LARGE = ("resnet50", "hf_mobilenet_v2", "llama", "gpt2")  # of a kind with smaller ones


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in (*CONVOLUTIONAL, *TRANSFORMERS)],
)
def test_same_places_as_nncf_quantize(name: str) -> None:
    build, build_example = {**CONVOLUTIONAL, **TRANSFORMERS}[name]
    torch.manual_seed(0)
    model, example = build().eval(), build_example()
    graph = trace(model, ExampleInput(kwargs=example)).graph
    model_type = model_type_of(graph)
    assert model_type == ("transformer" if name in TRANSFORMERS else None)
    ours, theirs = placed_by_us(graph, model_type), placed_by_nncf(model, example, model_type)
    assert set(theirs) - set(ours) == ONLY_IN_NNCF.get(name, set())
    assert ours == {place: symmetric for place, symmetric in theirs.items() if place in ours}


def test_mobilenet_v2_by_operator_type() -> None:
    graph = trace(models_torch.mobilenet_v2(), ExampleInput((image(64),))).graph
    placements = place(graph)
    assert Counter((graph[site.node].op, site.slot) for placement in placements for site in placement.sites) == {
        ("Input", "output"): 1,
        ("Conv", "weight"): 52,
        ("Gemm", "weight"): 1,
        ("Clip", "output"): 35,  # ReLU6: the stem, twice in 16 blocks and once in the first, the head
        ("BatchNormalization", "output"): 17,  # end of every block
        ("Add", "output"): 10,
        ("GlobalAveragePool", "output"): 1,
    }
    assert all(placement.spec.per_channel == placement.of_weight for placement in placements)
