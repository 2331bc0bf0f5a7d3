"""Models that run other operators in training than in inference: what is compressed is found again, or it is an error."""

from __future__ import annotations

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch import trace as tracing
from nncf_ext_torch.module_classes import install, uninstall
from nncf_ext_torch.sites import module_edits
from torch import Tensor, nn

from nncf_ext import NNCFConfig
from nncf_ext.graph import Site


class Detector(nn.Module):
    """Raw maps in training, decoded boxes in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(x)).permute(0, 2, 3, 1)
        if self.training:
            return y
        boxes = y.sigmoid()
        return torch.cat((boxes[..., :2] * 2 - 0.5, (boxes[..., 2:4] * 2) ** 2, boxes[..., 4:]), -1)


def detector(**keys) -> tuple:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization", **keys}})
    return (*create_compressed_model(Detector(), register_default_init_args(config, [(x, 0)])), x)


def test_a_detector_trains_and_decodes():
    ctrl, model, x = detector()
    decoding = [edit for edit in ctrl.plan if edit.site.node.startswith("Detector/__")]
    assert decoding  # there is something in inference that training does not run
    raw = model.train()(x)
    raw.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.endswith("weight"))
    plain = ctrl.strip().eval()
    with torch.no_grad():
        boxes = model.eval()(x)
    assert raw.shape == boxes.shape and (boxes - plain(x)).abs().mean() < 0.02
    assert (boxes - model.train()(x).detach()).abs().max() > 0.1  # the two paths are different, and stay so


def seen(model: nn.Module, example: tracing.ExampleInput, wanted: dict[str, float], *args: Tensor, **kwargs: object) -> object:
    """The model's output, traced in inference on `example`, with the result of each node in `wanted` replaced by tens."""
    traced = tracing.trace(model, example)
    nodes = [node.name for node in traced.graph.nodes]
    assert set(wanted) <= set(nodes), nodes
    steps = {
        Site(name, "output"): (lambda x, training, value=value: torch.full_like(x, value),) for name, value in wanted.items()
    }
    install(model, module_edits(model, traced, steps))
    try:
        return model(*args, **kwargs)
    finally:
        uninstall(model)


class Shifted(nn.Module):
    """Training multiplies before, between and after what inference multiplies too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.training:
            x = x * torch.rand(())
        y = self.a(x)
        if targets is not None:
            weights = targets * 3
        y = y * 2
        z = self.b(y).tanh() * 4
        loss = (z * weights).sum() if targets is not None else z.sum()
        return y, z, loss


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("targets", [False, True])
def test_the_right_multiplications(training, targets):
    x = torch.ones(1, 2)
    model = Shifted().train(training)
    given = {"targets": torch.ones(1, 2)} if targets else {}
    node = "Shifted/__mul___"
    for _ in range(2):
        y, z, _ = seen(model, tracing.ExampleInput((x,)), {f"{node}0": 10.0, f"{node}1": 20.0}, x, **given)
        assert torch.equal(y, torch.full((1, 2), 10.0)) and torch.equal(z, torch.full((1, 2), 20.0))


def test_from_a_forward_with_targets_to_one_without():
    x = torch.ones(1, 2)
    model = Shifted()
    example = tracing.ExampleInput((x,), {"targets": x})
    y, z, loss = seen(model, example, {"Shifted/__mul___1": 10.0, "Shifted/__mul___2": 20.0}, x)
    assert torch.equal(y, torch.full((1, 2), 10.0)) and torch.equal(z, torch.full((1, 2), 20.0)) and loss == 40


class Block(nn.Module):
    """Stochastic depth as timm has it: the identity in inference, random arithmetic in a function in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def drop(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0], 1)).bernoulli_(0.5)
        kept.div_(0.5)
        return x * kept

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.a(x) * self.scale)
        return x + self.drop(self.b(x) * self.scale)


@pytest.mark.parametrize(
    ("node", "expected"),
    [("Block/__add___1", 7.0), ("Block/__mul___1", None), ("Block/__add___0", None), ("Block/__mul___0", None)],
)
def test_stochastic_depth(node, expected):
    torch.manual_seed(0)
    x, block = torch.randn(64, 4), Block().train()
    with torch.no_grad():
        block.b.weight.zero_(), block.b.bias.zero_()
    y = seen(block, tracing.ExampleInput((x,)), {node: 7.0}, x)
    if node == "Block/__add___1":
        assert torch.equal(y, torch.full_like(x, 7.0))
    elif node == "Block/__mul___1":  # the second branch is 7 where it is kept, doubled
        rows = seen(block, tracing.ExampleInput((x,)), {"Block/__add___0": 0.0, node: 7.0}, x)
        assert set(rows.unique().tolist()) == {0.0, 14.0}
    elif node == "Block/__add___0":  # what follows has weights of zero
        assert torch.equal(y, torch.full_like(x, 7.0))
    else:
        rows = (y - x).round(decimals=4)
        assert set(rows.unique().tolist()) == {0.0, 14.0}


class Alike(nn.Module):
    """In training twice what inference does once, with the same operands."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return (y + x * 2 if self.training else y).relu()


def test_what_cannot_be_told_apart_is_refused():
    x = torch.ones(2)
    with pytest.raises(RuntimeError, match="Alike calls mul in training in other places than when it was traced"):
        seen(Alike().train(), tracing.ExampleInput((x,)), {"Alike/__mul___0": 5.0}, x)
    assert torch.equal(seen(Alike().eval(), tracing.ExampleInput((x,)), {"Alike/__mul___0": 5.0}, x), torch.full((2,), 5.0))


class OneInInference(nn.Module):
    """Runs one operator in inference, and others behind it in training or where a second argument is given."""

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        y = self.before(x).relu()
        if factor is not None:
            y = y * factor
        return y - 3 if self.training else y

    def before(self, x: Tensor) -> Tensor:
        return x


class OtherInput(OneInInference):
    def before(self, x: Tensor) -> Tensor:
        return x + 1 if self.training else x


def test_a_module_that_runs_one_operator_when_traced_is_edited_there_alone():
    x = torch.ones(2)
    for training, expected in ((False, 10.0), (True, 7.0)):
        model = nn.Sequential(OneInInference(), nn.Identity()).train(training)
        found = seen(model, tracing.ExampleInput((x,)), {"Sequential/OneInInference[0]/relu_0": 10.0}, x)
        assert torch.equal(found, torch.full((2,), expected))
    model, example = OneInInference().eval(), tracing.ExampleInput((x,))
    found = seen(model, example, {"OneInInference/relu_0": 10.0}, x, factor=torch.tensor(2.0))
    assert torch.equal(found, torch.full((2,), 20.0))
    with pytest.raises(RuntimeError, match="OtherInput calls relu in training in other places than when it was traced"):
        seen(OtherInput().train(), example, {"OtherInput/relu_0": 10.0}, x)


class Counted(nn.Module):
    """As many multiplications in both modes, but not the same ones."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.exp() * 3 if self.training else x.sigmoid() * 2).relu()


def test_another_operator_in_its_place_is_not_taken_for_it():
    x = torch.ones(2)
    with pytest.raises(RuntimeError, match="Counted calls mul in training"):
        seen(Counted().train(), tracing.ExampleInput((x,)), {"Counted/__mul___0": 5.0}, x)


class Varying(nn.Module):
    """Runs its second branch now and then, and counts and draws in it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a = nn.BatchNorm1d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.training and torch.rand(()) < 0.5:
            y = y * torch.rand(())
        return self.a(y) * 2


def test_random_paths_are_followed_and_the_first_look_leaves_no_trace():
    x, model = torch.randn(8, 2), Varying().train()
    for seed in range(6):
        torch.manual_seed(seed)
        assert torch.equal(seen(model, tracing.ExampleInput((x,)), {"Varying/__mul___0": 3.0}, x), torch.full((8, 2), 3.0))
    assert model.norm.num_batches_tracked == 6


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        y = self.a(x)
        y = y if mask is None else y * mask
        return y if bias is None else y + bias


def test_arguments_left_out_that_were_given_when_traced():
    """And the other way round; quantizers of what is not given have nothing to do."""
    torch.manual_seed(0)
    x, mask, bias = torch.randn(4, 2), torch.rand(4, 2), torch.rand(4, 2)
    algorithm = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 4, "type": "min_max"}}}
    config = NNCFConfig.from_dict({"compression": algorithm})
    config = register_default_init_args(config, [tracing.ExampleInput((x,), {"mask": mask})])
    ctrl, model = create_compressed_model(Optional(), config)
    plain = ctrl.strip().eval()
    for given in ({}, {"mask": mask}, {"mask": None}, {"bias": bias}, {"mask": mask, "bias": bias}):
        for training in (True, False):
            with torch.no_grad():
                torch.testing.assert_close(model.train(training)(x, **given), plain(x, **given), rtol=0, atol=0.03)


class MaskWhereExported(nn.Module):
    """Adds a mask of zeros where it cannot ask whether there is something in it: what is exported has one sum more."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.keys(x) @ x.mT
        if torch.compiler.is_exporting() or mask.any():
            scores = scores + mask[:, None, :].to(scores.dtype) * -1e4
        y = scores.softmax(-1) @ self.values(x)
        return self.head(y + x)


def test_other_operators_where_it_is_exported(tmp_path):
    torch.manual_seed(0)
    x, mask = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    data = [{"x": x, "mask": mask}]
    ctrl, model = create_compressed_model(MaskWhereExported(), register_default_init_args(config, data))
    assert any("__add__" in edit.site.node for edit in ctrl.plan)
    before = model.eval()(x, mask)
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report is not None and report.lsb < 0.01
    assert torch.equal(before, model(x, mask))  # and in PyTorch it is what it was


class TwoTowers(nn.Module):
    """Similarities of all rows with all rows: a product whose second operand has a free size, then a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.image(image) @ self.text(text).t() * self.scale.exp()


def test_products_of_free_sizes_keep_the_factor_behind_them(tmp_path):
    torch.manual_seed(0)
    data = [{"image": torch.randn(3, 6), "text": torch.randn(3, 5)}]
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    ctrl, _ = create_compressed_model(TwoTowers(), register_default_init_args(config, data))
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report is not None and report.lsb < 0.01


class Cache:
    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None

    def update(self, keys: torch.Tensor) -> torch.Tensor:
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], 1)
        return self.keys


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        x += 1
        keys = cache.update(self.key(x))
        return torch.matmul(self.query(x), keys.transpose(1, 2))


class Decoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, x: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        return self.attention(x * 1.0, Cache() if cache is None else cache)


def test_a_forward_that_is_only_looked_at_leaves_its_arguments_alone():
    """The first forward in a mode is run twice: caches get one entry of it all the same, and inputs are written to once."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    ctrl, model = create_compressed_model(Decoder(), register_default_init_args(config, [x, x]))
    assert any("__iadd__" in edit.site.node for edit in ctrl.plan)
    expected = ctrl.strip()(x)
    for training in (True, False):
        cache = Cache()
        output = model.train(training)(x, cache)
        assert cache.keys is not None and cache.keys.shape[1] == 3
        torch.testing.assert_close(output, expected)
        assert model(x, cache).shape == (2, 3, 6) and cache.keys.shape[1] == 6


def test_arguments_that_cannot_be_copied_are_told():
    class Held(Cache):
        def __deepcopy__(self, memo: object) -> Held:
            raise TypeError("held by a lock")

    x = torch.randn(2, 3, 4)
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    _, model = create_compressed_model(Decoder(), register_default_init_args(config, [x, x]))
    with pytest.warns(UserWarning, match="runs twice on Held, which cannot be copied .held by a lock."):
        model.train()(x, Held())
