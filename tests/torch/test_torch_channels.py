"""Groups of coupled channels of torch models: counted by hand, and proved by zeroing units."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch.trace import ExampleInput, leaves, trace
from torch import Tensor, nn

from benchmarks import models_torch
from nncf_ext.channels.groups import ChannelGroup, channel_groups
from nncf_ext.graph import Graph

IMAGE = ExampleInput((torch.randn(2, 3, 64, 64),))
PIXELS = ExampleInput((), {"pixel_values": torch.randn(2, 3, 64, 64)})
TOKENS = ExampleInput((), {"input_ids": torch.arange(16).reshape(2, 8)})
SMALL = ExampleInput((torch.randn(2, 3, 8, 8),))
ROWS = ExampleInput((torch.randn(2, 6, 8),))


class Lambda(nn.Module):
    """Layers by name, and what `forward` does with them."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = forward

    def forward(self, *args: Tensor) -> Any:
        return self.body(self, *args)


def groups_of(model: nn.Module, example: ExampleInput) -> tuple[Graph, tuple[ChannelGroup, ...]]:
    graph = trace(model, example).graph
    return graph, channel_groups(graph)


def free(groups: tuple[ChannelGroup, ...]) -> list[ChannelGroup]:
    return [group for group in groups if group.blocked is None]


def members_of(graph: Graph, group: ChannelGroup) -> dict[tuple[str, int], str]:
    """(parameter, axis) -> role."""
    names = {}
    for member in group.members:
        parameter = graph[member.site.node].parameter(member.site.slot)
        assert parameter is not None and len(member.units) == parameter.shape[member.axis]
        assert set(member.units) - {-1} == set(range(group.size))
        names[parameter.name, member.axis] = member.role
    return names


def outputs_of(model: nn.Module, example: ExampleInput) -> list[Tensor]:
    with torch.no_grad():
        return [tensor.clone() for _, tensor in leaves(model(*example.args, **example.kwargs)) if tensor.is_floating_point()]


def check_units(model: nn.Module, example: ExampleInput, units_per_group: int = 1, seed: int = 0) -> tuple[ChannelGroup, ...]:
    """For units of every free group: once its outputs and followers are zero, its inputs have no influence on the model."""
    model = copy.deepcopy(model).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases of zero and scales of one would hide mistakes
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.add_(torch.randn(module.running_mean.shape, generator=random))
    graph, groups = groups_of(model, example)
    parameters = dict(model.named_parameters())
    plain = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    original = outputs_of(model, example)
    for group in free(groups):
        members_of(graph, group)
        for unit in torch.randperm(group.size, generator=random)[:units_per_group].tolist():
            slices: dict[str, list[tuple[Tensor, int, list[int]]]] = {"output": [], "follower": [], "input": []}
            for member in group.members:
                name = graph[member.site.node].parameter(member.site.slot).name  # pyright: ignore[reportOptionalMemberAccess]
                index = [at for at, owner in enumerate(member.units) if owner == unit]
                slices[member.role].append((parameters[name], member.axis, index))
            with torch.no_grad():
                for parameter, axis, index in slices["output"] + slices["follower"]:
                    parameter.index_fill_(axis, torch.tensor(index), 0.0)
                zeroed = outputs_of(model, example)
                for parameter, axis, index in slices["input"]:
                    parameter.index_add_(axis, torch.tensor(index), torch.randn(_part(parameter, axis, index), generator=random))
            for before, after in zip(zeroed, outputs_of(model, example), strict=True):
                torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(plain[name])
    for before, after in zip(original, outputs_of(model, example), strict=True):
        assert torch.equal(before, after)
    return groups


def check_removal(model: nn.Module, example: ExampleInput, seed: int = 0) -> tuple[ChannelGroup, ...]:
    """A model without one unit of every free group computes what it computes with that unit zeroed."""
    model = copy.deepcopy(model).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    graph, groups = groups_of(model, example)
    parameters = dict(model.named_parameters())
    kept: dict[tuple[str, int], Tensor] = {}
    with torch.no_grad():
        for group in free(groups):
            unit = int(torch.randint(group.size, (), generator=random))
            for member in group.members:
                name = graph[member.site.node].parameter(member.site.slot).name  # pyright: ignore[reportOptionalMemberAccess]
                stays = torch.tensor(member.units) != unit
                kept[name, member.axis] = kept.get((name, member.axis), torch.tensor(True)) & stays
                if member.role != "input":
                    parameters[name].index_fill_(member.axis, (~stays).nonzero().reshape(-1), 0.0)
    zeroed = outputs_of(model, example)
    for (name, axis), stays in kept.items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        before = getattr(module, attribute)
        setattr(module, attribute, nn.Parameter(before.detach().index_select(axis, stays.nonzero().reshape(-1))))
        if attribute == "weight" and axis == 0:
            _adapt(module, before.shape, stays)
    for before, after in zip(zeroed, outputs_of(model, example), strict=True):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    return groups


def _adapt(module: Any, before: torch.Size, stays: Tensor) -> None:
    """What a module knows of its channels beside its parameters."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.running_mean, module.running_var = module.running_mean[stays], module.running_var[stays]  # pyright: ignore
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    if isinstance(module, nn.GroupNorm):
        module.num_groups, module.num_channels = module.num_groups * len(module.weight) // before[0], len(module.weight)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        module.groups = module.groups * len(module.weight) // before[0]


def _part(parameter: Tensor, axis: int, index: list[int]) -> list[int]:
    return [len(index) if at == axis else size for at, size in enumerate(parameter.shape)]


# Whole models -------------------------------------------------------------------------------------------------------------------

MODELS: list[tuple[Callable[[], Any], ExampleInput, int, int]] = [  # number of free groups, of their units
    (models_torch.resnet18, IMAGE, 12, 64 * 3 + 128 * 3 + 256 * 3 + 512 * 3),
    (models_torch.mobilenet_v2, IMAGE, 25, 9128),
    (models_torch.hf_resnet, PIXELS, 7, 304),
    (models_torch.hf_mobilenet_v2, PIXELS, 25, 4144),
    (lambda: models_torch.bert(2, 128), TOKENS, 2 * 2 + 1, 2 * (2 + 512) + 128),  # heads, FFN; pooler
    (lambda: models_torch.vit(2, 192), PIXELS, 2 * 2, 2 * (3 + 768)),
    (lambda: models_torch.llama(2, 64), TOKENS, 2 * 2, 2 * (2 + 256)),  # two key/value heads, each with two query heads
]


_NAMES = ["resnet18", "mobilenet_v2", "hf_resnet", "hf_mobilenet_v2", "bert", "vit", "llama"]


@pytest.mark.parametrize(("build", "example", "count", "units"), MODELS, ids=_NAMES)
def test_units_of_whole_models(build: Callable[[], Any], example: ExampleInput, count: int, units: int) -> None:
    torch.manual_seed(0)
    model = build()
    groups = check_units(model, example)
    check_removal(model, example)
    assert (len(free(groups)), sum(group.size for group in free(groups))) == (count, units)


# One mechanism at a time --------------------------------------------------------------------------------------------------------


def _dense_block(m: Any, x: Tensor) -> Tensor:
    a = F.relu(m.a(x))
    b = F.relu(m.b(a))
    c = m.c(F.relu(m.bn(torch.cat([a, b], 1))))
    return m.fc(torch.cat([a, b, c], 1).mean((2, 3)))


def _depthwise(m: Any, x: Tensor) -> Tensor:
    return m.last(F.relu6(m.bn(m.depthwise(F.relu(m.first(x))))))


def _squeeze_excite(m: Any, x: Tensor) -> Tensor:
    x = F.silu(m.bn(m.conv(x)))
    return m.last(x * torch.sigmoid(m.expand(F.relu(m.reduce(F.adaptive_avg_pool2d(x, 1))))))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, -1, h, w)


def _shuffle_v1(m: Any, x: Tensor) -> Tensor:
    return m.last(m.grouped(_shuffle(F.relu(m.first(x)), 3)))


def _shuffle_v2(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.first(x))
    a, b = x.chunk(2, dim=1)
    b = F.relu(m.pointwise(m.depthwise(F.relu(m.inner(b)))))
    return m.last(_shuffle(torch.cat([a, b], 1), 2))


def _swiglu(m: Any, x: Tensor) -> Tensor:
    gate, up = m.gate_up(x).chunk(2, dim=-1)
    return m.down(F.silu(gate) * up)


def _halves(m: Any, x: Tensor) -> Tensor:
    x = m.first(x)
    return m.last(x[:, :4]) + m.other(x[:, 4:])


def _decoder(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.fc(x.flatten(1)))
    return m.last(F.relu(m.bn(m.up(x.view(x.shape[0], -1, 2, 2)))))


def _unet(m: Any, x: Tensor) -> Tensor:
    a = F.relu(m.a(x))
    b = F.relu(m.b(F.max_pool2d(a, 2)))
    return m.last(torch.cat([m.up(b), F.interpolate(b, scale_factor=2), a], 1))


def _shared(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.first(x))
    return m.last(F.relu(m.twice(F.relu(m.twice(x)))))


def _fused_qkv(m: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    q, k, v = m.qkv(x).reshape(n, t, 3, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q * 4**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    return m.out((weights @ v).transpose(1, 2).flatten(2))


def _grouped_query(m: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    q = m.q(x).view(n, t, -1, 4).transpose(1, 2)
    k, v = (layer(x).view(n, t, -1, 4).transpose(1, 2) for layer in (m.k, m.v))
    k, v = k.repeat_interleave(2, dim=1), v[:, :, None].expand(n, v.shape[1], 2, t, 4).reshape(n, -1, t, 4)
    k = k * torch.rsqrt(k.pow(2).mean(-1, keepdim=True) + 1e-6) * m.norm.weight  # RMSNorm of every head
    return m.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def _einsum_attention(m: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    q, k, v = (layer(x).view(n, t, -1, 4) for layer in (m.q, m.k, m.v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return m.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(n, t, -1))


def _single_head(m: Any, x: Tensor) -> Tensor:
    return m.out(F.softmax(m.q(x) @ m.k(x).mT, dim=-1) @ m.v(x))


def _layer_scale(m: Any, x: Tensor) -> Tensor:
    return m.last(m.scale.weight[:, None, None] * m.first(x) + m.shift.weight)


class Weight(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


def _conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


# Layers, forward, example, sizes of the free groups by the layer that makes them first.
NETS: dict[str, tuple[dict[str, nn.Module], Callable[..., Any], ExampleInput, dict[str, int]]] = {
    "dense": (
        {"a": _conv(3, 4), "b": _conv(4, 5), "bn": nn.BatchNorm2d(9), "c": _conv(9, 2), "fc": nn.Linear(11, 3)},
        _dense_block,
        SMALL,
        {"a": 4, "b": 5, "c": 2},
    ),
    "depthwise": (
        {"first": _conv(3, 4), "depthwise": _conv(4, 8, groups=4), "bn": nn.BatchNorm2d(8), "last": _conv(8, 2)},
        _depthwise,
        SMALL,
        {"first": 4},
    ),
    "grouped": (  # whole groups: 2 input, 3 output channels each
        {"first": _conv(3, 8), "depthwise": _conv(8, 12, groups=4), "bn": nn.BatchNorm2d(12), "last": _conv(12, 2)},
        _depthwise,
        SMALL,
        {"first": 4},
    ),
    "squeeze_excite": (
        {"conv": _conv(3, 6), "bn": nn.BatchNorm2d(6), "reduce": _conv(6, 2), "expand": _conv(2, 6), "last": _conv(6, 2)},
        _squeeze_excite,
        SMALL,
        {"conv": 6, "reduce": 2},
    ),
    "shuffle_v1": (  # shuffled, the 12 channels are 0 4 8, 1 5 9, 2 6 10, 3 7 11: of each group the same position
        {"first": _conv(3, 12), "grouped": _conv(12, 4, groups=4), "last": _conv(4, 2)},
        _shuffle_v1,
        SMALL,
        {"first": 4},
    ),
    "shuffle_v2": (  # halves lose the same: first[j], first[4 + j] and pointwise[j]; within the branch all are free
        {
            "first": _conv(3, 8),
            "inner": _conv(4, 6),
            "depthwise": _conv(6, 6, groups=6),
            "pointwise": _conv(6, 4),
            "last": _conv(8, 2),
        },
        _shuffle_v2,
        SMALL,
        {"first": 4, "inner": 6},
    ),
    "swiglu": ({"gate_up": nn.Linear(8, 20), "down": nn.Linear(10, 4)}, _swiglu, ROWS, {"gate_up": 10}),
    "decoder": (
        {"fc": nn.Linear(192, 20), "up": nn.ConvTranspose2d(5, 6, 2, 2), "bn": nn.BatchNorm2d(6), "last": _conv(6, 2)},
        _decoder,
        SMALL,
        {"fc": 5, "up": 6},
    ),
    "unet": (
        {"a": _conv(3, 4), "b": _conv(4, 6), "up": nn.ConvTranspose2d(6, 5, 2, 2), "last": _conv(15, 2)},
        _unet,
        SMALL,
        {"a": 4, "b": 6, "up": 5},
    ),
    "shared": ({"first": _conv(3, 4), "twice": _conv(4, 4), "last": _conv(4, 2)}, _shared, SMALL, {"first": 4}),
    "fused_qkv": ({"qkv": nn.Linear(8, 36), "out": nn.Linear(12, 2)}, _fused_qkv, ROWS, {"qkv": 3}),
    "grouped_query": (
        {"q": nn.Linear(8, 24), "k": nn.Linear(8, 12), "v": nn.Linear(8, 12), "norm": Weight(4), "out": nn.Linear(24, 2)},
        _grouped_query,
        ROWS,
        {"q": 3},
    ),
    "einsum_attention": (
        {"q": nn.Linear(8, 12), "k": nn.Linear(8, 12), "v": nn.Linear(8, 12), "out": nn.Linear(12, 2)},
        _einsum_attention,
        ROWS,
        {"q": 3},
    ),
    "single_head": (  # query and key channels would change the scores' scale; value channels are free
        {"q": nn.Linear(8, 4), "k": nn.Linear(8, 4), "v": nn.Linear(8, 5), "out": nn.Linear(5, 2)},
        _single_head,
        ROWS,
        {"v": 5},
    ),
    "layer_scale": (
        {"first": _conv(3, 4), "scale": Weight(4), "shift": Weight(4, 8, 1), "last": _conv(4, 2)},
        _layer_scale,
        SMALL,
        {"first": 4},
    ),
    "group_norm": (
        {"first": _conv(3, 8), "bn": nn.GroupNorm(4, 8), "depthwise": nn.Identity(), "last": _conv(8, 2)},
        _depthwise,
        SMALL,
        {"first": 4},
    ),
    "instance_norm": (
        {"first": _conv(3, 4), "last": _conv(4, 2)},
        lambda m, x: m.last(F.instance_norm(m.first(x))),
        SMALL,
        {"first": 4},
    ),
    "norm_of_channels": (
        {"first": nn.Linear(8, 4), "last": nn.Linear(4, 2)},
        lambda m, x: m.last(F.normalize(m.first(x), dim=-1) + m.first(x) * m.first(x).square().sum(-1, keepdim=True)),
        ROWS,
        {"first": 4},
    ),
    "pixel_shuffle": (
        {"first": _conv(3, 12), "act": nn.PReLU(12), "last": _conv(3, 2)},
        lambda m, x: m.last(F.pixel_shuffle(m.act(m.first(x)), 2)),
        SMALL,
        {"first": 3},
    ),
    "channel_permutation": (
        {"first": _conv(3, 4), "last": _conv(4, 2), "other": _conv(4, 2)},
        lambda m, x: m.last(m.first(x)) + m.other(m.first(x)[:, torch.tensor([3, 1, 0, 2])]),
        SMALL,
        {},
    ),
    "padded_shortcut": (  # ResNet's option A: the first 4 of 6 channels meet the shortcut, the others meet zeros, which stay
        {"first": _conv(3, 4), "second": _conv(4, 6), "last": _conv(6, 2)},
        lambda m, x: m.last(F.pad(m.first(x), (0, 0, 0, 0, 0, 2)) + m.second(m.first(x))),
        SMALL,
        {"first": 4},
    ),
    "flatten": (
        {"first": _conv(3, 4), "fc": nn.Linear(4 * 16, 5), "last": nn.Linear(5, 2)},
        lambda m, x: m.last(F.relu(m.fc(torch.flatten(F.max_pool2d(m.first(x), 2), 1)))),
        SMALL,
        {"first": 4, "fc": 5},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_units_of_one_mechanism(name: str) -> None:
    torch.manual_seed(0)
    layers, forward, example, expected = NETS[name]
    model = Lambda(forward, **layers)
    groups = check_units(model, example, units_per_group=4)
    found = {group.name: group.size for group in free(groups)}
    assert {_layer(group): size for group, size in found.items()} == expected
    check_removal(model, example)


def _transformers(name: str, **settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        kind = name.partition("For")[0].removesuffix("LMHeadModel").removesuffix("EncoderModel")
        return getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**settings))

    return build


_LANGUAGE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
ARCHITECTURES: list[
    tuple[Callable[[], Any], ExampleInput, list[int], bool]
] = [  # sizes of free groups; whether code has no sizes
    (  # windows of 4x4 with a table of position biases; the second block rolls its input, which is not an ONNX operator
        _transformers("SwinForImageClassification", image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
        PIXELS,
        [2, 96, 2, 96, 4, 192, 4, 192],
        True,
    ),
    (  # grouped convolutions of 8 channels, squeeze-excite
        _transformers("RegNetForImageClassification", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], groups_width=8),
        PIXELS,
        [16, 32, 4, 4, 64, 8, 8, 8, 16],
        True,
    ),
    (  # query and key are normalised head by head
        _transformers("Qwen3ForCausalLM", **_LANGUAGE, num_key_value_heads=2, head_dim=8, use_cache=False),
        TOKENS,
        [2, 64, 2, 64],
        True,
    ),
    (  # query, key and value in one matrix, split at fixed places
        _transformers("GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, vocab_size=100, use_cache=False),
        TOKENS,
        [4, 128, 4, 128],
        False,
    ),
    (  # the position biases of the first layer's heads are added in the second one too
        _transformers("T5EncoderModel", d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=100),
        TOKENS,
        [4, 64, 64],
        True,
    ),
    (  # torch's own attention cannot run with fewer heads than it was made with: its trace says so
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        ROWS,
        [16],
        False,
    ),
]


_ARCHITECTURES = ["swin", "regnet", "qwen3", "gpt2", "t5", "encoder_layer"]


@pytest.mark.parametrize(("build", "example", "sizes", "removable"), ARCHITECTURES, ids=_ARCHITECTURES)
def test_units_of_other_architectures(build: Callable[[], Any], example: ExampleInput, sizes: list[int], removable: bool) -> None:
    torch.manual_seed(0)
    model = build()
    assert sorted(group.size for group in free(check_units(model, example))) == sorted(sizes)
    if removable:
        check_removal(model, example)


def _layer(node: str) -> str:
    return node.split("[")[-1].split("]")[0]
