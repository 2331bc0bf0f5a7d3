"""Placement over traced torch models, compared with what `nncf.quantize` of NNCF 3.4 places in the same models.

Both sides number the calls of each Python function in execution order, so an operator is named ("conv2d", 3) on both, and a place
is that name with an input port, or None for its output.

`nncf.quantize` runs here without SmoothQuant and bias correction, which rescale weights and change no quantizer's reason to be:
SmoothQuant puts a multiplication before every Linear of a transformer and NNCF then quantizes its result in place of its operand.

Exceptions, everything that is allowed to differ:
* NNCF quantizes the input of a depthwise convolution per channel; ours is per tensor (same place, see `nncf_ext.placement.place`).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
import torch
import transformers
from nncf_ext_torch.trace import ExampleInput, trace

from benchmarks import models_torch
from nncf_ext.graph import INPUT, Graph, Site
from nncf_ext.placement import model_type_of, place

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
        port = 1 if site.is_parameter else site.port  # torch's functions take the weight as their second argument
        return operators[site.node], port

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
    for hook, module in get_hook_storage(quantized).named_hooks():  # "pre_hooks.<operator>__<port>.<index>"
        if isinstance(module, BaseQuantizer):
            kind, _, rest = hook.partition(".")
            operator, _, port = rest.rpartition(".")[0].rpartition("__")
            places[operators[operator], int(port) if kind == "pre_hooks" else None] = isinstance(module, SymmetricQuantizer)
    return places


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0))


def image(size: int) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def bert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16
    )
    mask = torch.ones(1, 8, dtype=torch.int64)
    return transformers.BertForSequenceClassification(config), {"input_ids": tokens(1, 8), "attention_mask": mask}


def vit() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
    )
    return transformers.ViTForImageClassification(config), {"pixel_values": image(16)}


def llama() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, use_cache=False
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": tokens(1, 8)}


def hf_resnet() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic")
    return transformers.ResNetForImageClassification(config), {"pixel_values": image(32)}


def hf_mobilenet() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=32)
    return transformers.MobileNetV2ForImageClassification(config), {"pixel_values": image(32)}

MODELS: Mapping[str, Callable[[], tuple[torch.nn.Module, dict[str, Any]]]] = {
    f.__name__: f for f in (bert, vit, llama, hf_resnet, hf_mobilenet)
}

@pytest.mark.parametrize("name", MODELS)
def test_same_places_as_nncf_quantize(name: str) -> None:
    torch.manual_seed(0)
    model, example = MODELS[name]()
    model.eval()
    graph = trace(model, ExampleInput(kwargs=example)).graph
    model_type = model_type_of(graph)
    assert model_type == ("transformer" if name in ("bert", "vit", "llama") else None)
    theirs = placed_by_nncf(model, example, model_type)
    assert placed_by_us(graph, model_type) == theirs
    assert len(theirs) > 20
