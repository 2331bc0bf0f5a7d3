"""Channels are taken out of the user's own model, which computes on as before: by hand-written removals."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import transformers
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.shrink import remove_channels
from nncf_ext_torch.trace import ExampleInput, trace
from torch import Tensor, nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.algorithm import Algorithm
from nncf_ext.edits import Removal
from nncf_ext.graph import Graph, Site

IMAGE = ExampleInput((torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),))
Wanted = dict[str, dict[int, Sequence[int]]]  # parameter -> axis -> what to keep


def removals_of(traced: Any, wanted: Wanted) -> list[Removal]:
    """At every site of these parameters."""
    return [
        Removal(Site(node.name, parameter.slot), axis, tuple(keep))
        for node in traced.graph.nodes
        for parameter in node.parameters
        for axis, keep in wanted.get(parameter.name, {}).items()
    ]


@torch.no_grad()
def zeroed(model: nn.Module, wanted: Wanted) -> nn.Module:
    """A copy of the model in which the channels to be removed are zero."""
    model = copy.deepcopy(model)
    for name, axes in wanted.items():
        parameter = model.get_parameter(name)
        for axis, keep in axes.items():
            gone = [index for index in range(parameter.shape[axis]) if index not in keep]
            parameter.index_fill_(axis, torch.tensor(gone, dtype=torch.long), 0)
    return model


def lively(model: nn.Module) -> nn.Module:
    """With statistics and factors that are all different."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                low = 0.5 if name.endswith(("running_var", "weight", "gamma")) else -0.5
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return model


def shrunk(model: nn.Module, example: ExampleInput, wanted: Wanted) -> tuple[nn.Module, nn.Module]:
    """(zeroed, with the channels removed), compared to 1e-5, trained for a step, saved and copied."""
    before = zeroed(lively(model), wanted)
    after = copy.deepcopy(before)
    objects = {name: parameter for name, parameter in after.named_parameters()}
    flags = [parameter.requires_grad for parameter in after.parameters()]
    traced = trace(after, example)
    assert remove_channels(after, removals_of(traced, wanted), traced) is after
    assert type(after) is type(model) and all(objects[name] is p for name, p in after.named_parameters())
    assert [parameter.requires_grad for parameter in after.parameters()] == flags
    for name, axes in wanted.items():
        assert all(after.get_parameter(name).shape[axis] == len(keep) for axis, keep in axes.items()), name
    assert_same(before, after, example)
    check_life(after, example)
    return before, after


def outputs(model: nn.Module, example: ExampleInput) -> list[Tensor]:
    return tensors_in(model(*example.args, **example.kwargs))


def tensors_in(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [t for t in (output.values() if isinstance(output, dict) else output) if isinstance(t, Tensor)]


def assert_same(before: nn.Module, after: nn.Module, example: ExampleInput) -> None:
    with torch.no_grad():
        for a, b in zip(outputs(before.eval(), example), outputs(after.eval(), example), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


def check_life(model: nn.Module, example: ExampleInput) -> None:
    """It trains, saves, loads and copies."""
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    sum(output.square().mean() for output in outputs(model.train(), example)).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    twin.load_state_dict(model.state_dict())
    assert_same(model, twin, example)


class Plain(nn.Module):
    """Every pixel of the second convolution is an input of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, stride=4), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.head(x.flatten(1))


def of(keep: Sequence[int], *names: str, axis: int = 0) -> Wanted:
    return {name: {axis: keep} for name in names}


def joined(*parts: Wanted) -> Wanted:
    whole: Wanted = {}
    for part in parts:
        for name, axes in part.items():
            whole.setdefault(name, {}).update(axes)
    return whole


def blocks(keep: Sequence[int], size: int) -> list[int]:
    return [index * size + inside for index in keep for inside in range(size)]


ONE, TWO = (0, 2, 3, 7), (1, 2, 5)
PLAIN = joined(
    of(ONE, "conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"),
    of(ONE, "conv2.weight", axis=1),
    of(TWO, "conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias"),
    of(blocks(TWO, 16), "head.weight", axis=1),
)


def test_convolutions_with_batchnorm_in_front_of_a_linear_layer() -> None:
    before, after = shrunk(Plain(), IMAGE, PLAIN)
    assert (after.conv1.in_channels, after.conv1.out_channels, after.conv2.in_channels, after.conv2.out_channels) == (3, 4, 4, 3)
    assert (after.bn1.num_features, after.bn2.num_features, after.head.in_features) == (4, 3, 48)
    assert torch.equal(before.bn2.running_var[list(TWO)], zeroed(before, {}).bn2.running_var[list(TWO)])
    assert after.bn2.running_var.shape == (3,) and after.bn2.num_batches_tracked.shape == ()
    assert "out_channels" not in repr(after.conv1) and "Conv2d(3, 4, " in repr(after.conv1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


RESIDUAL = joined(
    of(ONE, "stem.weight", "bn.weight", "bn.bias", "conv2.weight", "bn2.weight", "bn2.bias"),
    of(ONE, "conv1.weight", "head.weight", axis=1),
    of((4, 5), "conv1.weight", "bn1.weight", "bn1.bias"),
    of((4, 5), "conv2.weight", axis=1),
)


def test_residual_connection() -> None:
    shrunk(Residual(), IMAGE, RESIDUAL)


class Separable(nn.Module):
    """Inverted residual of MobileNetV2, also with two filters per channel; and a transposed depthwise convolution."""

    def __init__(self, multiplier: int = 1) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6 * multiplier, 3, groups=6, bias=False)
        self.bn2 = nn.BatchNorm2d(6 * multiplier)
        self.project = nn.Conv2d(6 * multiplier, 4, 1, bias=False)
        self.up = nn.ConvTranspose2d(4, 4, 2, groups=4)
        self.out = nn.ConvTranspose2d(4, 5, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn2(self.depthwise(F.relu6(self.bn1(self.expand(x))))))
        return self.out(self.up(self.project(x)))


def of_separable(multiplier: int) -> Wanted:
    after_depthwise = blocks(TWO, multiplier)
    return joined(
        of(TWO, "expand.weight", "bn1.weight", "bn1.bias"),
        of(after_depthwise, "depthwise.weight", "bn2.weight", "bn2.bias"),
        of(after_depthwise, "project.weight", axis=1),
        of((0, 3), "project.weight", "up.weight", "up.bias", "out.weight"),
    )


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_and_transposed_convolutions(multiplier: int) -> None:
    after = shrunk(Separable(multiplier), IMAGE, of_separable(multiplier))[1]
    depthwise = after.depthwise
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (3, 3, 3 * multiplier)
    assert (after.up.groups, after.up.in_channels, after.up.out_channels) == (2, 2, 2)
    assert (after.out.groups, after.out.in_channels, after.out.out_channels) == (1, 2, 5)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.conv3 = nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv3(self.norm(torch.cat([x, self.conv2(torch.relu(x))], dim=1)))


BOTH = (0, 3, 4 + 1, 4 + 2, 4 + 3)
DENSE = joined(
    of((0, 3), "conv1.weight", "conv1.bias"),
    of((0, 3), "conv2.weight", axis=1),
    of((1, 2, 3), "conv2.weight", "conv2.bias"),
    of(BOTH, "norm.weight", "norm.bias"),
    of(BOTH, "conv3.weight", axis=1),
)


def test_concatenation() -> None:
    shrunk(Dense(), IMAGE, DENSE)


class Grouped(nn.Module):
    """One group norm per group of channels that a grouped convolution makes; 1-d and 3-d layers; PReLU; embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(10, 6), nn.Conv1d(6, 8, 1)
        self.norm, self.act = nn.GroupNorm(4, 8), nn.PReLU(8)
        self.grouped = nn.Conv1d(8, 4, 1, groups=4)
        self.head = nn.Conv3d(4, 2, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.table(tokens).transpose(1, 2))
        x = self.grouped(self.act(self.norm(x)))
        return self.head(x[..., None, None])


def test_groups_embeddings_and_prelu() -> None:
    tokens = ExampleInput((torch.arange(10).reshape(2, 5),))
    pairs = blocks((0, 2, 3), 2)
    wanted = joined(
        of(TWO, "table.weight", axis=1),
        of(TWO, "conv.weight", axis=1),
        of(pairs, "conv.weight", "conv.bias", "norm.weight", "norm.bias", "act.weight"),
        of((0, 2, 3), "grouped.weight", "grouped.bias"),
        of((0, 2, 3), "head.weight", axis=1),
    )
    after = shrunk(Grouped(), tokens, wanted)[1]
    assert (after.norm.num_groups, after.norm.num_channels, after.act.num_parameters) == (3, 6, 6)
    assert (after.grouped.groups, after.grouped.in_channels, after.table.embedding_dim) == (3, 6, 3)


def test_groups_of_unequal_size_are_refused() -> None:
    model, tokens = lively(Grouped()), ExampleInput((torch.arange(10).reshape(2, 5),))
    refused(
        model, tokens, of((0, 1, 2, 4, 6), "norm.weight"), r"GroupNorm norm: .* 4 groups keep 1 to 2 channels, expected equally"
    )


class Shared(nn.Module):
    """A layer that runs twice, a tied weight, a raw parameter in a functional operator, channels last, float64."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)
        self.table = nn.Parameter(torch.randn(6, 4))
        self.decode = nn.Linear(4, 6)
        self.twin = nn.Linear(4, 6)
        self.twin.weight = self.decode.weight
        self.frozen = nn.Linear(6, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(torch.relu(self.conv(torch.relu(self.stem(x)))))
        x = x.mean((2, 3)) @ self.table
        return self.frozen(self.decode(x) * self.twin(x))


SHARED = joined(
    of(TWO, "stem.weight", "stem.bias", "conv.weight", "conv.bias", "table"),
    of(TWO, "conv.weight", axis=1),
    of((0, 1, 3, 5), "decode.weight", "decode.bias", "twin.bias"),
    of((0, 1, 3, 5), "frozen.weight", axis=1),
)


def test_shared_layers_tied_weights_and_layouts() -> None:
    model = Shared().double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = shrunk(model, ExampleInput((IMAGE.args[0].double(),)), SHARED)[1]
    assert after.twin.weight is after.decode.weight
    assert all(p.dtype == torch.float64 for p in after.parameters())
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    traced = trace(conv, IMAGE)
    wanted = of((1, 5), "weight", "bias")
    with pytest.raises(ConfigError, match="Conv2d: does not give what it gave"):  # the number of outputs is not to change
        remove_channels(conv, removals_of(traced, wanted), traced)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last) and conv.weight.shape == (8, 3, 3, 3)
    last = Residual().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = shrunk(last, IMAGE, RESIDUAL)[1]
    assert after.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not after.conv1.weight.is_contiguous()


def test_in_place_where_a_graph_of_an_earlier_step_is_alive() -> None:
    """And an optimizer without momenta goes on with the same parameters."""
    model = zeroed(lively(Residual()), RESIDUAL)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = model(*IMAGE.args).sum()
    loss.backward()
    alive = model(*IMAGE.args)
    traced = trace(model, IMAGE)
    remove_channels(model, removals_of(traced, RESIDUAL), traced)
    assert model.conv1.weight.grad is None and model.head.bias.grad is not None
    model(*IMAGE.args).sum().backward()
    weight = model.conv1.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.conv1.weight, weight) and alive.shape == (2, 3)


class Constants(nn.Module):
    """Channels meet what is no operator's weight: a norm without parameters, frozen statistics, a factor, sizes of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)
        self.frozen = FrozenNorm(8)
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.mix = nn.Conv2d(8, 6, 1)
        self.width, self.shape = 6 * 16 * 16, (6, 256)
        self.head = nn.Linear(6 * 256, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(self.norm(self.conv(x))) * self.gamma
        x = self.mix(x)
        return self.head(x.reshape(x.shape[0], *self.shape).view(-1, self.width))


class FrozenNorm(nn.Module):
    """As in torchvision's detection models."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            getattr(self, n).reshape(1, -1, 1, 1) for n in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * var.rsqrt()
        return x * scale + (bias - mean * scale)


def test_what_goes_along_without_being_asked_for() -> None:
    """Consumers' weights of the removed channels are zero, so that a norm's shift of them has no effect."""
    wanted = joined(
        of(ONE, "conv.weight", "conv.bias"),
        of(ONE, "mix.weight", axis=1),
        of(TWO, "mix.weight", "mix.bias"),
        of(blocks(TWO, 256), "head.weight", axis=1),
    )
    after = shrunk(Constants(), IMAGE, wanted)[1]
    assert after.norm.running_mean.shape == (4,) and after.norm.num_features == 4
    assert after.frozen.running_var.shape == (4,) and after.gamma.shape == (4, 1, 1)
    assert (after.width, after.shape) == (3 * 256, (3, 256))


class Shuffle(nn.Module):
    """With the old number of groups it would run, to another order of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 4
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1, groups=4)
        self.mix, self.head = nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        x = x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(torch.relu(self.mix(x)))


def test_a_channel_shuffle_loses_groups() -> None:
    shuffled = [index for index in range(32) if index % 4 in (0, 1, 3)]
    wanted = joined(
        of(blocks((0, 1, 3), 4), "conv1.weight", "conv1.bias"),
        of(blocks((0, 1, 3), 8), "conv2.weight", "conv2.bias"),
        of(shuffled, "mix.weight", "mix.bias"),
        of(shuffled, "head.weight", axis=1),
    )
    after = shrunk(Shuffle(), IMAGE, wanted)[1]
    assert after.groups == after.conv2.groups == 3


class Parts(nn.Module):
    """The sizes that the code splits its channels into are its own, all of them too large afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [6, 3, 3]
        self.wide, self.mix, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate, same, mixed = torch.split(torch.relu(self.wide(x)), self.sizes, dim=1)
        return self.head(torch.relu(gate) * torch.cat([same, self.mix(mixed)], 1))


def test_parts_that_the_code_counts_get_smaller_together() -> None:
    wanted = joined(
        of((0, 1, 3, 4, 6, 7, 9, 10), "wide.weight", "wide.bias"),
        of((0, 1), "mix.weight", "mix.bias"),
        of((0, 1), "mix.weight", axis=1),
        of((0, 1, 3, 4), "head.weight", axis=1),
    )
    after = shrunk(Parts(), IMAGE, wanted)[1]
    assert after.sizes == [4, 2, 2]


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(F.avg_pool2d(x, 4).view(x.shape[0], 128))


STUBBORN = joined(
    of(ONE, "conv.weight", "conv.bias", "norm.weight", "norm.bias"),
    of(blocks(ONE, 16), "head.weight", axis=1),
)


def refused(model: nn.Module, example: ExampleInput, wanted: Wanted, words: str, error: type[Exception] = ConfigError) -> str:
    """The removal fails with `words`, in one sentence, and the model is as it was."""
    before = copy.deepcopy(model)
    tensors = [(id(t), t.data_ptr()) for t in (*model.parameters(), *model.buffers())]
    gradients = [parameter.grad for parameter in model.parameters()]
    attributes = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in model.modules()]
    traced = trace(model, example)
    with pytest.raises(error, match=words) as caught:
        remove_channels(model, removals_of(traced, wanted), traced)
    assert "\n" not in str(caught.value)
    assert [(id(t), t.data_ptr()) for t in (*model.parameters(), *model.buffers())] == tensors
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert attributes == [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return str(caught.value)


def test_a_constant_in_the_code_is_named_and_nothing_changes() -> None:
    model = zeroed(lively(Stubborn()), STUBBORN)
    model(*IMAGE.args).sum().backward()
    message = refused(model, IMAGE, STUBBORN, "Stubborn: does not run with the channels that are left")
    assert "`return self.head(F.avg_pool2d(x, 4).view(x.shape[0], 128))`, test_torch_shrink.py line" in message
    assert 'add "Stubborn/BatchNorm2d[norm]/batch_norm_0" to ignored_scopes' in message


def test_channels_that_are_not_zero_are_named_and_nothing_changes() -> None:
    message = refused(lively(Residual()), IMAGE, RESIDUAL, "does not give what it gave before channels were removed")
    assert re.search(r'add "Residual/\S+" to ignored_scopes', message)
    partly = zeroed(
        lively(Residual()), {name: axes for name, axes in RESIDUAL.items() if name not in ("bn2.bias", "head.weight")}
    )
    assert refused(partly, IMAGE, RESIDUAL, "before").startswith("Linear head: ")


class Decided(nn.Module):
    """What the last places of sums decide about, as a detector's choice of boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 1)

    def scores(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).movedim(1, -1).contiguous().sum(-1)

    def forward(self, x: Tensor) -> Any:
        return torch.frac(self.scores(x) * 1e6)


class Counted(Decided):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), self.scores(x) * self.conv.out_channels


THIRD = tuple(range(0, 64, 3))
DECIDED = of(THIRD, "conv.weight", "conv.bias")


def test_outputs_that_the_last_place_decides_may_be_others() -> None:
    before = zeroed(lively(Decided()), DECIDED)
    after = copy.deepcopy(before)
    traced = trace(after, IMAGE)
    remove_channels(after, removals_of(traced, DECIDED), traced)
    assert after.conv.out_channels == len(THIRD)
    assert not torch.equal(before(*IMAGE.args), after(*IMAGE.args))
    torch.testing.assert_close(before.scores(*IMAGE.args), after.scores(*IMAGE.args))


def test_a_wrong_width_is_found_beside_such_outputs() -> None:
    refused(zeroed(lively(Counted()), DECIDED), IMAGE, DECIDED, "does not give what it gave before channels")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"conv1.weight": {4: (0,)}}, "found axis 4, expected one of 4 axes"),
        ({"conv1.weight": {0: ()}}, "expected sorted indices below 8, at least one"),
        ({"conv1.weight": {0: (1, 1)}}, r"found \[1, 1\] to keep"),
        ({"conv1.weight": {0: tuple(range(9))}}, r"found \[0, 1, 2, 3, 4, 5, ...\] to keep"),
    ],
)
def test_wrong_removals(wanted: Wanted, words: str) -> None:
    refused(Residual(), IMAGE, wanted, words, ValueError)


def test_shards_are_refused() -> None:
    model = Residual()
    vars(model.conv1.weight)["full_tensor"] = model.conv1.weight.detach  # as FSDP2's parameters have
    refused(model, IMAGE, RESIDUAL, "conv2d_0.weight: is in shards", ValueError)


def test_removals_that_contradict_each_other() -> None:
    model = Shared()
    traced = trace(model, IMAGE)
    first, second = (Site(node.name, "weight") for node in traced.graph.nodes if node.module == "conv")
    with pytest.raises(ValueError, match="found other channels to keep along axis 0"):
        remove_channels(model, [Removal(first, 0, (0, 1)), Removal(second, 0, (0, 2))], traced)
    assert model.conv.weight.shape == (6, 6, 1, 1)


def test_nothing_to_remove() -> None:
    model = Residual()
    traced = trace(model, IMAGE)
    assert remove_channels(model, [], traced) is model
    whole = removals_of(traced, of(range(8), "conv1.weight"))
    assert remove_channels(model, whole, traced).conv1.out_channels == 8
    trace_of_a_call = trace(model, lambda m: m(*IMAGE.args))
    zero = zeroed(model, RESIDUAL)
    assert remove_channels(zero, removals_of(trace_of_a_call, RESIDUAL), trace_of_a_call).conv1.out_channels == 2


def compressed(model: nn.Module, *, samples: int = 8, **settings: Any) -> Any:
    torch.manual_seed(0)
    init = {"range": {"num_init_samples": samples}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    quantization = {"algorithm": "quantization", "initializer": init, **settings}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 16, 16]}, "compression": quantization})
    data = [(torch.randn(4, 3, 16, 16), torch.zeros(4)) for _ in range(2)]
    return create_compressed_model(model, register_default_init_args(config, data))[0]


def asking_for(monkeypatch: pytest.MonkeyPatch, controller: Any, wanted: Wanted) -> None:
    """The first algorithm of the controller wants these channels removed."""
    monkeypatch.setattr(Algorithm, "removals", lambda self, training, state: removals_of(Graphed(training.graph), wanted))


@dataclass
class Graphed:
    graph: Graph


ASYMMETRIC = {"weights": {"mode": "asymmetric"}, "activations": {"mode": "asymmetric"}}
PER_CHANNEL = {"activations": {"per_channel": True}}


@pytest.mark.parametrize(
    ("build", "wanted", "settings"),
    [
        (Plain, PLAIN, ASYMMETRIC),
        (Residual, RESIDUAL, PER_CHANNEL),
        (Separable, of_separable(1), {}),
        (Dense, DENSE, PER_CHANNEL),
    ],
    ids=["plain", "residual", "depthwise", "dense"],
)
def test_a_pruned_and_quantized_model_is_exported_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, wanted: Wanted, settings: dict[str, Any]
) -> None:
    """And agrees with the compressed model; the scales of the channels that are left are the learned ones."""
    ctrl = compressed(zeroed(lively(build()), wanted), **settings)
    for edit in ctrl.plan:  # as training would
        if "scale" in ctrl.variable_values(edit):
            ctrl._attached.assign(edit, "scale", ctrl.variable_values(edit)["scale"] * 1.1)
    asking_for(monkeypatch, ctrl, wanted)
    state = {name: tensor.clone() for name, tensor in ctrl.model.state_dict().items()}
    parity = ctrl.export_model(tmp_path / "smaller.onnx")
    assert parity.samples == 8 and parity.unoptimized <= 1.01 * parity.step
    assert all(torch.equal(state[name], tensor) for name, tensor in ctrl.model.state_dict().items())
    assert_same(ctrl.model, ctrl.strip(), IMAGE)
    plain = ctrl.strip(quantizers=False)
    for name, axes in wanted.items():
        assert all(plain.get_parameter(name).shape[axis] == len(keep) for axis, keep in axes.items())
    tensors = onnx.load(tmp_path / "smaller.onnx").graph.initializer
    by_channel = ("_Div", "_Max", "_Min", "_Mul")  # of activations' quantizers
    sizes = [np.prod(tensor.dims) for tensor in tensors if len(tensor.dims) > 1 and not tensor.name.endswith(by_channel)]
    assert sorted(sizes) == sorted(weight.numel() for weight in plain.parameters() if weight.ndim > 1)
    assert ctrl.strip(do_copy=False, quantizers=False) is ctrl.model
    assert_same(plain, ctrl.model, IMAGE)


def test_strip_that_fails_leaves_the_model_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl = compressed(zeroed(lively(Stubborn()), STUBBORN))
    asking_for(monkeypatch, ctrl, STUBBORN)
    expected = ctrl.model.eval()(*IMAGE.args)
    for fails in (lambda: ctrl.strip(do_copy=False), ctrl.strip, lambda: ctrl.export_model(tmp_path / "model.onnx")):
        with pytest.raises(ConfigError, match="Stubborn: does not run with the channels that are left"):
            fails()
    assert torch.equal(ctrl.model(*IMAGE.args), expected) and not list(tmp_path.iterdir())


TOKENS = ExampleInput((), {"input_ids": torch.arange(12).reshape(2, 6)})
PIXELS = ExampleInput((), {"pixel_values": IMAGE.args[0]})
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NEURONS = (1, 2, 5, 40)


def of_heads(keep: Sequence[int], *makes: str, reads: str) -> Wanted:
    """Heads of 8 channels each in the layers `makes`, which the layer `reads` projects back."""
    wide = blocks(keep, 8)
    parts = [of(wide, f"{name}.weight", f"{name}.bias") for name in makes]
    return joined(*parts, of(wide, f"{reads}.weight", axis=1))


def bert() -> tuple[nn.Module, Wanted]:
    layer = "encoder.layer.0"
    attention = [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
    model = transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=16, **SMALL))
    return model, joined(
        of_heads((0, 3), *attention, reads=f"{layer}.attention.output.dense"),
        of(NEURONS, f"{layer}.intermediate.dense.weight", f"{layer}.intermediate.dense.bias"),
        of(NEURONS, f"{layer}.output.dense.weight", axis=1),
    )


def vit() -> tuple[nn.Module, Wanted]:
    attention = [f"layers.1.attention.{name}_proj" for name in "qkv"]
    model = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **SMALL))
    return model, of_heads((2,), *attention, reads="layers.1.attention.o_proj")


def llama(queries: Sequence[int], keys: Sequence[int]) -> tuple[nn.Module, Wanted]:
    config = transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, max_position_embeddings=16, use_cache=False, **SMALL)
    config._attn_implementation = "eager"
    mlp, attention = "model.layers.0.mlp", "model.layers.0.self_attn"
    return transformers.LlamaForCausalLM(config), joined(
        of(blocks(queries, 8), f"{attention}.q_proj.weight"),
        of(blocks(queries, 8), f"{attention}.o_proj.weight", axis=1),
        of(blocks(keys, 8), f"{attention}.k_proj.weight", f"{attention}.v_proj.weight") if len(keys) < 2 else {},
        of(NEURONS, f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"),
        of(NEURONS, f"{mlp}.down_proj.weight", axis=1),
    )


def gpt2() -> tuple[nn.Module, Wanted]:
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=4, use_cache=False)
    config.bos_token_id = config.eos_token_id = None
    heads = blocks((0, 2, 3), 8)
    fused = [part * 32 + index for part in range(3) for index in heads]
    return transformers.GPT2Model(config), joined(
        of(fused, "h.0.attn.c_attn.weight", axis=1),
        of(fused, "h.0.attn.c_attn.bias"),
        of(heads, "h.0.attn.c_proj.weight"),
        of(NEURONS, "h.0.mlp.c_fc.weight", axis=1),
        of(NEURONS, "h.0.mlp.c_fc.bias"),
        of(NEURONS, "h.0.mlp.c_proj.weight"),
    )


@pytest.mark.parametrize(
    ("build", "example", "module", "numbers"),
    [
        (
            bert,
            TOKENS,
            "encoder.layer.0.attention.self",
            {"num_attention_heads": 2, "attention_head_size": 8, "all_head_size": 16},
        ),
        (vit, PIXELS, "layers.1.attention", {"num_attention_heads": 1, "head_dim": 8}),
        (lambda: llama((2, 3), (1,)), TOKENS, "model.layers.0.self_attn", {"num_key_value_groups": 2}),
        (lambda: llama((1, 2), (0, 1)), TOKENS, "model.layers.0.self_attn", {"num_key_value_groups": 1}),
        (gpt2, TOKENS, "h.0.attn", {"num_heads": 3, "split_size": 24, "head_dim": 8}),
    ],
    ids=["bert", "vit", "llama", "llama_queries", "gpt2"],
)
def test_heads_and_neurons_of_transformers(build: Any, example: ExampleInput, module: str, numbers: dict[str, int]) -> None:
    torch.manual_seed(0)
    model, wanted = build()
    attention = shrunk(model, example, wanted)[1].get_submodule(module)
    assert {name: getattr(attention, name) for name in numbers} == numbers


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 2, kdim=6, vdim=16, batch_first=True)
        self.keys = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.embed(x.flatten(2).transpose(1, 2)[:, :20]))
        return self.cross(x, self.keys(x), x)[0]


def test_around_torchs_own_attention() -> None:
    """Also on its fast path, which computes with the children's weights without running them."""
    wanted = joined(
        of(NEURONS[:3], "block.linear1.weight", "block.linear1.bias"),
        of(NEURONS[:3], "block.linear2.weight", axis=1),
        of((0, 2), "keys.weight", "keys.bias"),
        of((0, 2), "cross.k_proj_weight", axis=1),
    )
    after = shrunk(Attention(), IMAGE, wanted)[1]
    assert (after.cross.kdim, after.cross.vdim, after.cross.embed_dim, after.block.linear1.out_features) == (2, 16, 16, 3)


def test_heads_of_torchs_own_attention_are_refused() -> None:
    heads = blocks((0, 2), 4)
    fused = [part * 16 + index for part in range(3) for index in heads]
    attention = "block.self_attn"
    wanted = joined(
        of(fused, f"{attention}.in_proj_weight", f"{attention}.in_proj_bias"), of(heads, f"{attention}.out_proj.weight", axis=1)
    )
    words = r"MultiheadAttention block.self_attn: cannot lose channels: .*as many channels in its heads as in its queries; add \""
    refused(zeroed(lively(Attention()), wanted), IMAGE, wanted, words)


class Stream(nn.Module):
    """Torch's attention can lose heads where its inputs lose as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(3, 16), nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        return self.head(x + self.attention(x, x, x)[0])


def test_the_whole_width_of_torchs_own_attention() -> None:
    heads = blocks((0, 2, 3), 4)
    fused = [part * 16 + index for part in range(3) for index in heads]
    wanted = joined(
        of(heads, "embed.weight", "embed.bias", "attention.out_proj.weight", "attention.out_proj.bias"),
        of(fused, "attention.in_proj_weight", "attention.in_proj_bias"),
        of(heads, "attention.in_proj_weight", "attention.out_proj.weight", "head.weight", axis=1),
    )
    after = shrunk(Stream(), IMAGE, wanted)[1]
    assert (after.attention.embed_dim, after.attention.num_heads, after.attention.head_dim) == (12, 3, 4)
