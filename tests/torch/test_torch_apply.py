"""Transforms on sites of torch models: they act where they should, nowhere else, and go without a trace."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nncf_ext_torch.adapter import TorchAdapter
from nncf_ext_torch.apply import TorchAttached
from nncf_ext_torch.forward_scope import in_forward
from nncf_ext_torch.trace import ExampleInput, TorchTrace, trace
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks import models_torch
from nncf_ext.edits import Edit, Plan, Transform, Var
from nncf_ext.graph import Site

ADAPTER = TorchAdapter()


class Scale(Transform):
    """x * factor"""

    kind: Literal["scale"] = "scale"
    stage: ClassVar[int] = 10

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x * variables["factor"]


class Shift(Transform):
    """x + offset, in inference only if `always`"""

    kind: Literal["shift"] = "shift"
    stage: ClassVar[int] = 20
    always: bool = True

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x + variables["offset"] if training or self.always else x


class Broken(Transform):
    kind: Literal["broken"] = "broken"
    stage: ClassVar[int] = 10

    def apply(self, xp: Any, x: Any, variables: Any, training: bool) -> Any:
        return x.there_is_no_such_thing


def scale(*sites: Site) -> Edit:
    return Edit(sites, Scale(), "test")


def shift(*sites: Site, always: bool = True) -> Edit:
    return Edit(sites, Shift(always=always), "test")


def attach(
    model: nn.Module, example: ExampleInput, edits: Sequence[Edit], factor: float = 1.0, offset: float = 0.0
) -> TorchAttached:
    first = {"scale": {"factor": Var(np.float32([factor]), True)}, "shift": {"offset": Var(np.float32([offset]))}, "broken": {}}
    values = {edit.key: first[edit.transform.kind] for edit in edits}
    attached = ADAPTER.apply(model, trace(model, example), Plan(tuple(edits)), values)
    assert isinstance(attached, TorchAttached)
    return attached


def every_site(traced: TorchTrace) -> Iterator[tuple[Site, ...]]:
    """All sites that can be placed; those of one parameter together."""
    shared: dict[str, list[Site]] = {}
    for node in traced.graph.nodes:
        call = traced.calls[node.name]
        for parameter in node.parameters:
            shared.setdefault(parameter.name, []).append(Site(node.name, parameter.slot))
        for edge in traced.graph.inputs_of.get(node.name, ()):
            if edge.dtype == "float32" and edge.target_port in call.inputs:
                yield (Site(node.name, f"input:{edge.target_port}"),)
        if call.output is not None and any(e.dtype == "float32" for e in traced.graph.outputs_of.get(node.name, ())):
            yield (Site(node.name, "output"),)
    yield from (tuple(sites) for sites in shared.values())


class Small(nn.Module):
    """All kinds of places: leaf modules, a shared module, in-place and plain functional operators, a tied weight, keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.mix = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU()
        self.table = nn.Embedding(6, 4)

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.stem(x)
        y = self.relu(self.mix(y)) + self.relu(y)
        y += 0.5
        pooled = torch.cat([y.mean((2, 3)), self.table(index)], dim=-1)
        a, b = pooled.chunk(2, dim=1)
        return F.linear(input=a * b, weight=self.table.weight), {"pooled": pooled.sigmoid()}


EXAMPLE = ExampleInput((torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),), {"index": torch.tensor([1, 2])})


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    model = Small()
    for _ in range(3):
        model(*EXAMPLE.args, **EXAMPLE.kwargs)  # statistics for the BatchNorm
    return model.eval()


def floats(outputs: Any) -> list[Tensor]:
    return [tensor for _, tensor in ADAPTER.data.flatten(outputs)]


def run(model: nn.Module, example: ExampleInput = EXAMPLE) -> list[Tensor]:
    return floats(model(*example.args, **example.kwargs))


def in_forward_of(layer: nn.Module) -> Tensor:
    """The weight that the layer computes with."""
    with in_forward():
        return layer.weight


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


IMAGE = ExampleInput((torch.rand(2, 3, 32, 32),))
TOKENS = ExampleInput((), {"input_ids": torch.arange(12).reshape(2, 6)})


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (Small, EXAMPLE),
        (models_torch.resnet18, IMAGE),
        (models_torch.mobilenet_v2, IMAGE),
        (lambda: models_torch.bert(1, 64), TOKENS),
        (lambda: models_torch.vit(1, 64, image_size=32), ExampleInput((), {"pixel_values": IMAGE.args[0]})),
        (lambda: models_torch.llama(1, 64), TOKENS),
        (models_torch.hf_resnet, IMAGE),
        (models_torch.hf_mobilenet_v2, IMAGE),
    ],
)
def test_identity_everywhere_changes_nothing(build: Any, example: ExampleInput) -> None:
    model = build()
    plain = copy.deepcopy(model)
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    sites = list(every_site(trace(model, example)))
    attached = attach(model, example, [scale(*shared) for shared in sites])
    outputs = []
    for candidate in (model, plain):
        torch.manual_seed(0)  # dropout
        outputs.append(run(candidate.train(), example))
        sum(output.square().mean() for output in outputs[-1]).backward()  # type: ignore[union-attr]
    assert same(*outputs)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    factors = [attached.variables(edit)["factor"].grad for edit in attached.plan]
    assert sum(factor is not None for factor in factors) > 0.85 * len(factors)
    assert set(keys) < set(model.state_dict())
    assert model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    ADAPTER.strip(attached.model, False)
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert same(run(model.eval(), example), run(plain.eval(), example))


SMALL_SITES = [str(sites[0]) for sites in every_site(trace(Small(), EXAMPLE))]


@pytest.mark.parametrize("site", SMALL_SITES)
def test_every_site_has_an_effect(small: Small, site: str) -> None:
    before = run(small)
    attached = attach(small, EXAMPLE, [shift(Site.parse(site))], offset=3.0)
    assert not same(run(small), before)
    attached.set_enabled(attached.plan.edits[0], False)
    assert same(run(small), before)


def test_functional_site_is_exactly_that_operator(small: Small) -> None:
    y = small.stem(*EXAMPLE.args)
    y = F.relu(small.mix(y)) + (F.relu(y) + 2.0)
    want = torch.cat([(y + 0.5).mean((2, 3)), small.table(EXAMPLE.kwargs["index"])], dim=-1).sigmoid()
    attach(small, EXAMPLE, [shift(Site("Small/ReLU[relu]/relu_1", "output"))], offset=2.0)
    torch.testing.assert_close(run(small)[1], want, rtol=0, atol=0)


def test_input_and_output_of_the_model(small: Small) -> None:
    with torch.no_grad():
        want = [t.clone() for t in floats(small(EXAMPLE.args[0] + 1.0, EXAMPLE.kwargs["index"]))]
    edits = [shift(Site("/nncf_model_input_0", "output")), shift(Site("/nncf_model_output_1", "input:0"))]
    attach(small, EXAMPLE, edits, offset=1.0)
    by_position = floats(small(*EXAMPLE.args, EXAMPLE.kwargs["index"]))
    by_name = floats(small(x=EXAMPLE.args[0], index=EXAMPLE.kwargs["index"]))
    assert same(by_position, by_name) and same(by_name, [want[0], want[1] + 1.0])


def test_shared_weight_and_order_of_edits(small: Small) -> None:
    table = Site("Small/Embedding[table]/embedding_0", "weight")
    tied = Site("Small/linear_0", "weight")
    raw = small.table.weight
    attached = attach(small, EXAMPLE, [scale(table, tied), shift(table, tied)], factor=2.0, offset=1.0)
    assert torch.equal(in_forward_of(small.table), raw * 2 + 1)
    assert attached.parameter(tied) is raw and dict(small.named_parameters())["table.weight"] is raw
    attached.assign(attached.plan.edits[0], "factor", np.float32([3]))
    assert torch.equal(in_forward_of(small.table), raw * 3 + 1)
    ADAPTER.strip(attached.model, False)
    assert small.table.weight is raw and "table.nncf_ext_weight_scale_factor" not in small.state_dict()


def test_weight_shared_by_two_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    x = torch.rand(2, 3)
    example = ExampleInput((x,))
    want = model(x) * 4
    attach(model, example, [scale(Site("Sequential/Linear[0]/linear_0", "weight"))], factor=2.0)
    torch.testing.assert_close(model(x), want)
    ADAPTER.strip(model, do_copy=False)
    torch.testing.assert_close(model(x), want)


def test_two_edits_of_one_kind_on_a_shared_weight_are_refused(small: Small) -> None:
    edits = [scale(Site("Small/Embedding[table]/embedding_0", "weight")), scale(Site("Small/linear_0", "weight"))]
    with pytest.raises(ValueError, match="table.weight is shared"):
        attach(small, EXAMPLE, edits)


def test_sequential_with_a_shared_activation_stays_iterable() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    x = torch.rand(2, 3)
    want = model[3](model[2](model[1](model[0](x)) * 5.0))
    attach(model, ExampleInput((x,)), [scale(Site("Sequential/ReLU[1]/relu_0", "output"))], factor=5.0)
    assert len(model) == 4
    assert torch.equal(model(x), want)


def test_copies_are_independent(small: Small) -> None:
    edits = [scale(*sites) for sites in every_site(trace(small, EXAMPLE))]
    attached = attach(small, EXAMPLE, edits, factor=1.5)
    before = run(small)
    copied, pickled = copy.deepcopy(attached), pickle.loads(pickle.dumps(small))
    assert same(run(copied.model), before) and same(run(pickled), before)
    for edit in edits:
        copied.assign(edit, "factor", np.float32([1.0]))
    assert same(run(small), before) and not same(run(copied.model), before)
    stripped = ADAPTER.strip(small, do_copy=True)
    assert type(small.mix) is not nn.Conv2d and type(stripped.mix) is nn.Conv2d
    assert same(run(small), before)


def test_state_dict_holds_the_variables(small: Small) -> None:
    edits = [scale(*sites) for sites in every_site(trace(small, EXAMPLE))]
    attached = attach(small, EXAMPLE, edits, factor=1.5)
    names = {name for edit in edits for name in attached.tensor_names(edit).values()}
    assert len(names) == len(edits) and names <= set(ADAPTER.tensors(small))
    saved = ADAPTER.tensors(copy.deepcopy(small))
    before = run(small)
    for edit in edits:
        attached.assign(edit, "factor", np.float32([7.0]))
    ADAPTER.load_tensors(small, saved)
    assert same(run(small), before)
    assert all(isinstance(attached.variables(edit)["factor"], nn.Parameter) for edit in edits)


def test_float16_and_back_keeps_buffers_attached(small: Small) -> None:
    edit = shift(Site("Small/Conv2d[mix]/conv2d_0", "weight"), Site("Small/Conv2d[mix]/conv2d_0", "output"))
    attached = attach(small, EXAMPLE, [edit], offset=1.0)
    small.double()
    assert attached.variables(edit)["offset"].dtype == torch.float64
    small.float()
    attached.assign(edit, "offset", np.float32([0.0]))
    assert torch.equal(small.mix.weight, attached.parameter(edit.site))


def test_training_flag_reaches_the_transform(small: Small) -> None:
    attach(small, EXAMPLE, [shift(Site("Small/Conv2d[mix]/conv2d_0", "weight"), always=False)], offset=1.0)
    raw = small.mix._parameters["weight"]
    assert raw is not None
    assert torch.equal(in_forward_of(small.eval().mix), raw)
    assert torch.equal(in_forward_of(small.train().mix), raw + 1)


@pytest.mark.parametrize("build", [Small, lambda: Attention()])
def test_compiles_in_one_graph(build: Any) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = build().train()
    example = EXAMPLE if isinstance(model, Small) else ExampleInput((torch.rand(2, 3, 4),))
    attach(model, example, [scale(*sites) for sites in every_site(trace(model, example))], factor=1.25)
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    outputs = run(compiled, example), run(reference, example)
    for out in outputs:
        sum(tensor.square().mean() for tensor in out).backward()  # type: ignore[union-attr]
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b)
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_autocast(small: Small) -> None:
    attach(small, EXAMPLE, [scale(*sites) for sites in every_site(trace(small, EXAMPLE))])
    with torch.autocast("cpu", torch.bfloat16):
        scores, pooled = run(small.train())
        loss = scores.float().square().mean() + pooled.float().mean()
    assert scores.dtype == torch.bfloat16
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in small.parameters() if p.grad is not None)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Small()
        self.recompute = False

    def forward(self, x: Tensor, index: Tensor) -> Any:
        return checkpoint(self.block, x, index, use_reentrant=False) if self.recompute else self.block(x, index)


def test_activation_checkpointing() -> None:
    torch.manual_seed(0)
    model = Checkpointed().eval()
    attach(model, EXAMPLE, [scale(*sites) for sites in every_site(trace(model, EXAMPLE))], factor=1.25)
    other = copy.deepcopy(model)
    other.recompute = True
    for candidate in (model, other):
        sum(tensor.square().mean() for tensor in run(candidate)).backward()  # type: ignore[union-attr]
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("name", ["in_proj_weight", "out_proj.weight"])
def test_multi_head_attention_uses_its_transformed_weights(name: str) -> None:
    torch.manual_seed(0)
    model = Attention().eval()
    x = torch.rand(2, 3, 4)
    example = ExampleInput((x,))
    traced = trace(model, example)
    site = next(Site(n.name, p.slot) for n in traced.graph.nodes for p in n.parameters if p.name == f"attention.{name}")
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        doubled.attention.get_parameter(name).mul_(2)
    attach(model, example, [scale(site)], factor=2.0)
    with torch.no_grad():  # the fused path in C++
        torch.testing.assert_close(model(x), doubled(x))
    torch.testing.assert_close(model(x), doubled(x))


def test_transformer_layer_does_not_skip_transforms_in_inference() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    example = ExampleInput((torch.rand(2, 3, 8),))
    sites = [sites for sites in every_site(trace(model, example)) if sites[0].slot == "output" and "linear1" in sites[0].node]
    assert len(sites) == 2
    attach(model, example, [scale(*sites[0]), scale(*sites[1])], factor=2.0)
    with torch.no_grad():
        fast = run(model, example)
    assert all(torch.allclose(a, b) for a, b in zip(fast, run(model, example), strict=True))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.times = 2

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x * 2
        return x


def test_a_forward_that_varies_is_reported() -> None:
    model = Loop()
    example = ExampleInput((torch.ones(2),))
    attach(model, example, [scale(Site("Loop/__mul___1", "output"))], factor=3.0)
    assert torch.equal(run(model, example)[0], torch.full((2,), 12.0))
    model.times = 3
    with pytest.raises(RuntimeError, match="Loop calls mul in training in other places than when it was traced"):
        run(model, example)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        return y * y


def test_unplaceable_sites_are_refused_and_the_model_left_alone(small: Small) -> None:
    example = ExampleInput((torch.ones(2),))
    with pytest.raises(ValueError, match="writes in place"):
        attach(InPlace(), example, [scale(Site("InPlace/__iadd___0", "output"))])
    before = small.state_dict().keys()
    for site in ("Small/chunk_0|output", "Small/nothing_0|output", "Small/cat_0|input:7", "Small/cat_0|weight"):
        with pytest.raises(ValueError, match="Small/"):
            attach(small, EXAMPLE, [scale(Site("Small/Conv2d[mix]/conv2d_0", "weight")), scale(Site.parse(site))])
        assert small.state_dict().keys() == before and type(small.mix) is nn.Conv2d


class Final(nn.BatchNorm2d):
    def __init_subclass__(cls) -> None:
        raise TypeError("it has no subclass")


def test_error_while_installing_leaves_the_model_as_it_was(small: Small) -> None:
    small.stem[1].__class__ = Final  # type: ignore[assignment]
    before = small.state_dict().keys()
    weight, last = Site("Small/Conv2d[mix]/conv2d_0", "weight"), Site("Small/Sequential[stem]/Final[1]/batch_norm_0", "output")
    with pytest.raises(TypeError, match="no subclass"):
        attach(small, EXAMPLE, [scale(weight), scale(last)])
    assert small.state_dict().keys() == before and type(small) is Small and type(small.mix) is nn.Conv2d


def test_a_forward_on_the_instance_is_run_inside(small: Small) -> None:
    """As Accelerate puts one around the model for mixed precision, before compression or after it."""
    plain = copy.deepcopy(small).eval()
    seen: list[str] = []

    def wrapped(forward: Any, name: str) -> Any:
        @functools.wraps(forward)
        def around(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return forward(*args, **kwargs)

        return around

    small.forward = wrapped(small.forward, "before")  # type: ignore[method-assign]
    edits = [scale(Site("/nncf_model_output_0", "output")), scale(Site("Small/Conv2d[mix]/conv2d_0", "weight"))]
    attached = attach(small.eval(), EXAMPLE, edits, factor=2.0)
    plain.mix.weight.data *= 2
    expected = [2 * tensor for tensor in run(plain, EXAMPLE)[:1]]
    torch.testing.assert_close(run(small, EXAMPLE)[:1], expected)
    small.forward = wrapped(small.forward, "after")  # type: ignore[method-assign]
    seen.clear()
    torch.testing.assert_close(run(small, EXAMPLE)[:1], expected)
    assert seen == ["after", "before"]
    assert not hasattr(type(small).forward, "__wrapped__")  # what unwraps does not get past the compressed forward
    ADAPTER.strip(attached.model, False)
    seen.clear()
    torch.testing.assert_close(run(small, EXAMPLE)[:1], run(plain, EXAMPLE)[:1])
    assert seen == ["after"] or seen == ["after", "before"]


def test_compressing_twice_is_refused(small: Small) -> None:
    edits = [scale(Site("Small/Conv2d[mix]/conv2d_0", "weight"))]
    attached = attach(small, EXAMPLE, edits)
    with pytest.raises(ValueError, match="Small is compressed already"):
        attach(small, EXAMPLE, edits)
    attached.detach()
    with pytest.raises(ValueError, match="not in this model"):
        attached.variables(edits[0])
    attach(small, EXAMPLE, edits)


def test_failing_transform_of_a_parameter_is_not_taken_for_a_missing_attribute(small: Small) -> None:
    attach(small, EXAMPLE, [Edit((Site("Small/Conv2d[mix]/conv2d_0", "weight"),), Broken(), "test")])
    with pytest.raises(RuntimeError, match="Conv2d mix.weight failed"):
        run(small)


def test_assign_checks_the_shape(small: Small) -> None:
    edit = scale(Site("Small/Conv2d[mix]/conv2d_0", "weight"))
    with pytest.raises(ValueError, match=r"found shape \(2,\), expected \(1,\)"):
        attach(small, EXAMPLE, [edit]).assign(edit, "factor", np.float32([1, 2]))


def looked_at(model: nn.Module, traced: Any, batches: list[Any], sites: dict[Site, Any]) -> list[dict[Site, Any]]:
    infer = ADAPTER.inference(model, traced, sites)
    return [infer(batch)[1] for batch in batches]


def test_inference_shows_tensors(small: Small) -> None:
    traced = trace(small.train(), EXAMPLE)
    sites = [Site("Small/__add___0", "input:1"), Site("/nncf_model_input_0", "output")]
    classes, keys = [type(module) for module in small.modules()], small.state_dict().keys()
    batches = [EXAMPLE, {"x": EXAMPLE.args[0] * 2, "index": EXAMPLE.kwargs["index"]}, (EXAMPLE.args[0], EXAMPLE.kwargs["index"])]
    seen = looked_at(small, traced, batches, dict.fromkeys(sites, torch.clone))
    assert [list(each) for each in seen] == [[sites[1], sites[0]]] * 3  # as they pass
    assert [torch.equal(each[sites[1]], EXAMPLE.args[0]) for each in seen] == [True, False, True]
    assert torch.equal(seen[0][sites[0]], F.relu(small.eval().stem(*EXAMPLE.args)))
    outputs, nothing = ADAPTER.inference(small)(EXAMPLE)
    watched, _ = ADAPTER.inference(small, traced, dict.fromkeys(sites, torch.clone))(EXAMPLE)
    assert same(floats(watched), floats(outputs)) and not nothing

    def fail(tensor: Tensor) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        looked_at(small.train(), traced, [EXAMPLE], {sites[0]: fail})
    assert small.training and [type(module) for module in small.modules()] == classes and small.state_dict().keys() == keys
    assert not any("nncf_ext" in name for module in small.modules() for name in vars(module))


def test_inference_shows_tensors_of_a_compressed_model(small: Small) -> None:
    attached = attach(small, EXAMPLE, [shift(Site("Small/Conv2d[mix]/conv2d_0", "input:0"))], offset=5.0)
    before = run(small)
    site = Site("Small/Conv2d[mix]/conv2d_0", "output")
    for off, offset in (((), 5.0), (attached.plan.edits, 0.0)):
        seen = ADAPTER.inference(small, attached.traced, {site: torch.clone}, off)(EXAMPLE)[1]
        assert torch.equal(seen[site], F.conv2d(small.stem(*EXAMPLE.args) + offset, small.mix.weight, small.mix.bias))
    assert same(run(small), before)


def test_adapt_batchnorm() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2, momentum=0.3)).train()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    batches = [torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[5.0, 2.0], [7.0, 2.0]])]
    ADAPTER.adapt_batchnorm(model, batches)
    # means 2 and 6 -> 4; unbiased variance of (1, 3) and of (5, 7) is 2; dropout, in eval mode, changes nothing
    torch.testing.assert_close(norm.running_mean, torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(norm.running_var, torch.tensor([2.0, 0.0]))
    assert (norm.momentum, norm.training, model.training) == (0.3, True, True)
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("batches", [[], [torch.rand(2, 3)]], ids=["no batch", "wrong shape"])
def test_adapt_batchnorm_keeps_the_statistics_when_it_cannot(batches: list[Tensor]) -> None:
    model = nn.BatchNorm1d(2)
    model(torch.rand(4, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if batches:
        with pytest.raises((RuntimeError, ValueError)):
            ADAPTER.adapt_batchnorm(model, batches)
    else:
        ADAPTER.adapt_batchnorm(model, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.momentum == 0.1


def test_tap_reports_training_forwards_of_this_model_only(small: Small) -> None:
    site = Site("Small/__add___0", "input:1")
    attached = attach(small, EXAMPLE, [scale(Site("Small/Conv2d[mix]/conv2d_0", "weight")), shift(site)], offset=2.0)
    seen: list[tuple[Any, Any, Any]] = []
    ADAPTER.tap(small, attached.traced, [site], lambda *passed: seen.append(passed))
    run(small.eval())
    outputs = run(small.train())
    run(copy.deepcopy(small))
    assert len(seen) == 1
    (tensor,) = seen[0][2].values()
    assert list(seen[0][2]) == [site] and tensor.grad_fn is not None
    assert torch.equal(tensor, F.relu(copy.deepcopy(small.stem)(EXAMPLE.args[0])) + 2.0)
    ADAPTER.tap(small, attached.traced, [], lambda *passed: seen.append(passed))
    assert same(run(small), outputs) and seen.pop()[2] == {}
    assert same(floats(seen[0][1]), outputs)
    small.eval()
    assert same(floats(ADAPTER.inference(small)(seen[0][0])[0]), run(small))
    ADAPTER.strip(attached.model, False)
    run(small.train())
    assert len(seen) == 1


def test_frozen_copy(small: Small) -> None:
    teacher = ADAPTER.frozen_copy(small.train())
    assert small.training and not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert not any(output.requires_grad for output in floats(ADAPTER.inference(small)(EXAMPLE)[0]))
    assert small.training


def test_flatten_and_batch_size() -> None:
    a, b = torch.rand(3), torch.rand(2)
    nested: Mapping[str, Any] = {"x": (a, [b, torch.tensor(1)]), "y": None}
    assert same(floats(nested), [a, b])
    assert len(floats(models_torch.bert(1, 64)(**TOKENS.kwargs))) == 1
    assert ADAPTER.data.samples(TOKENS) == 2
