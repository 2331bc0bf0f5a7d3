"""Filter pruning of networks with BatchNorm, branches and depthwise convolutions, in PyTorch."""

import json

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.demo import DigitsNet
from torch import nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.algorithms.filter_pruning import PruningWarning
from nncf_ext.tools import demo

EVERYTHING = {"prune_first_conv": True, "prune_downsample_convs": True}
STEM, HEAD = {"target_scopes": "Small/Conv2d[stem]/conv2d_0"}, {"target_scopes": "Small/Linear[head]/linear_0"}


@pytest.fixture(scope="module")
def batches():
    data = demo.load_digits()
    images, labels = torch.from_numpy(data.train_images[:, None]), torch.from_numpy(data.train_labels)
    return list(zip(images[:192].split(32), labels[:192].split(32), strict=True))


class Small(nn.Module):
    """A residual block, a depthwise convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.inner_bn = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.outer = nn.Conv2d(24, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = torch.relu(self.depthwise(self.inner_bn(self.inner(x))))
        return self.head((x + self.outer(y)).mean((2, 3)))


def pruned(batches, model=None, init=0.0, scopes=None, more=(), **params):
    entry = {"algorithm": "filter_pruning", "pruning_init": init, "params": params, **(scopes or {})}
    config = NNCFConfig.from_dict({"compression": [entry, *more]})
    torch.manual_seed(0)
    return create_compressed_model(Small() if model is None else model, register_default_init_args(config, batches))


def train(ctrl, model, batches, epochs=1):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(epochs):
        model.train()
        ctrl.scheduler.epoch_step()
        for x, y in batches:
            ctrl.scheduler.step()
            optimizer.zero_grad()
            (nn.functional.cross_entropy(model(x), y) + ctrl.loss()).backward()
            optimizer.step()


def of_layers(ctrl):
    return {layer.name.split("[")[-1].split("]")[0]: layer.pruned_level for layer in ctrl.statistics().filter_pruning.layers}


def test_layers_that_are_added_lose_the_same_filters_and_depthwise_ones_follow(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=2, **EVERYTHING)
    train(ctrl, model, batches, 2)
    assert of_layers(ctrl) == pytest.approx({"stem": 0.5, "inner": 1 - 16 / 24, "depthwise": 1 - 16 / 24, "outer": 0.5})
    masks = {edit.site.node.split("[")[-1].split("]")[0]: ctrl.variable_values(edit)["mask"].reshape(-1) for edit in ctrl.plan}
    assert (masks["stem"] == masks["outer"]).all() and (masks["stem"] == masks["bn"]).all()
    assert (masks["inner"] == masks["depthwise"]).all()
    seen = {}
    for name in ("bn", "outer", "depthwise"):
        getattr(model, name).register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
    model.eval()(batches[0][0])
    for name, out in seen.items():
        gone = torch.from_numpy(masks[name] == 0)
        assert (out[:, gone] == 0).all() and (out[:, ~gone] != 0).any(), name


def test_flops_are_those_of_the_smaller_model(batches):
    """8 of 16 and 16 of 24 channels are left; per sample 8 x 8 pixels, and 2 operations a weight."""
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=1, **EVERYTHING)
    train(ctrl, model, batches)
    report = ctrl.statistics().filter_pruning
    weights = 9 * 8 + 8 * 16 * 9 + 16 * 9 + 16 * 8
    assert report.current_flops == ctrl.current_flops == 2 * (64 * weights + 8 * 10)
    assert report.full_flops == ctrl.full_flops == 2 * (64 * (9 * 16 + 16 * 24 * 9 + 24 * 9 + 24 * 16) + 160)
    assert report.current_params_num == weights + 8 * 10 + (8 + 16 + 16 + 32 + 8 + 10)
    assert report.full_params_num == sum(parameter.numel() for parameter in Small().parameters())
    assert (report.full_filters_num, report.current_filters_num) == (16 + 24 + 24 + 16 + 10, 8 + 16 + 16 + 8 + 10)


def test_the_stripped_model_is_smaller_and_computes_the_same(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=1, all_weights=True, **EVERYTHING)
    train(ctrl, model, batches)
    x = batches[0][0]
    expected = model.eval()(x)
    smaller = ctrl.strip().eval()
    torch.testing.assert_close(smaller(x), expected, rtol=1e-4, atol=1e-4)
    assert sum(parameter.numel() for parameter in smaller.parameters()) == ctrl.statistics().filter_pruning.current_params_num


def test_batch_norms_that_are_not_pruned_keep_their_shift(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=1, prune_batch_norms=False, **EVERYTHING)
    train(ctrl, model, batches)
    assert not {edit.site.node for edit in ctrl.plan if "batch_norm" in edit.site.node}
    expected = model.eval()(batches[0][0])
    stripped = ctrl.strip().eval()
    assert stripped.inner.weight.shape == (24, 16, 3, 3)
    torch.testing.assert_close(stripped(batches[0][0]), expected)


def test_what_is_left_alone_and_why(batches):
    ctrl, _ = pruned(batches, DigitsNet(), pruning_target=0.3)
    reasons = dict(ctrl.plan.skipped)
    block = "DigitsNet/Sequential[blocks]/Residual[1]"
    assert reasons["DigitsNet/Sequential[stem]/Conv2d[0]/conv2d_0"] == "is a first convolution, and prune_first_conv is false"
    assert reasons[f"{block}/Conv2d[conv1]/conv2d_0"] == "has a stride, and prune_downsample_convs is false"
    assert reasons[f"{block}/Conv2d[conv2]/conv2d_0"] == (
        f"is coupled with {block}/Sequential[shortcut]/Conv2d[0]/conv2d_0, which has a stride, and "
        "prune_downsample_convs is false"
    )
    assert reasons["DigitsNet/Linear[head]/linear_0"].startswith("its channels have to stay: ")


def test_scopes(batches):
    ignored, _ = pruned(batches, scopes={"ignored_scopes": "{re}outer"}, **EVERYTHING)
    assert set(of_layers(ignored)) == {"inner", "depthwise"}
    assert dict(ignored.plan.skipped)["Small/Conv2d[stem]/conv2d_0"].endswith("conv2d_0, which is in ignored_scopes")
    target, _ = pruned(batches, scopes={"target_scopes": ["{re}inner", "{re}depthwise"]}, **EVERYTHING)
    assert set(of_layers(target)) == {"inner", "depthwise"}


@pytest.mark.parametrize(
    ("scopes", "params", "words"),
    [
        (HEAD, EVERYTHING, r"\[head\]/linear_0 cannot be pruned: its channels have to"),
        (STEM, {}, "cannot be pruned: is a first convolution, and prune_first_conv is"),
        (STEM, EVERYTHING, r"is coupled with .*\[outer\]/conv2d_0, which is not in target"),
        ({"ignored_scopes": "{re}."}, {}, "found no filter that can be pruned: Small/Conv2d.stem./conv2d_0: .*ignored_scopes"),
        (
            {},
            {"pruning_target": 0.99, "all_weights": True, **EVERYTHING},
            "found 0.99, expected at most 0.95.*: more would empty",
        ),
        ({}, {"pruning_flops_target": 0.9, **EVERYTHING}, r"flops_target: found 0.9, expected at most 0.\d+: the rest is in"),
    ],
)
def test_mistakes(batches, scopes, params, words):
    model = Small()
    with pytest.raises(ConfigError, match=words):
        pruned(batches, model, scopes=scopes, **params)
    assert type(model.stem) is nn.Conv2d


@pytest.mark.parametrize("all_weights", [False, True])
def test_a_flops_target_is_met_and_no_filter_more_is_taken(batches, all_weights):
    ctrl, model = pruned(batches, pruning_flops_target=0.5, pruning_steps=1, all_weights=all_weights, **EVERYTHING)
    train(ctrl, model, batches)
    assert ctrl.current_flops <= 0.5 * ctrl.full_flops
    assert ctrl.compression_rate == pytest.approx(1 - ctrl.current_flops / ctrl.full_flops)
    if all_weights:  # the dearest filter costs less than a tenth
        assert ctrl.current_flops > 0.4 * ctrl.full_flops
    assert 0.5 < ctrl.maximal_compression_rate < 1
    ctrl.compression_rate = 0.25
    assert 0.25 <= ctrl.compression_rate < 0.5
    before = ctrl.current_flops
    ctrl.disable_scheduler()
    assert ctrl.current_flops == before
    train(ctrl, model, batches)
    assert ctrl.current_flops == before


def test_levels_set_by_hand(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=10, **EVERYTHING)
    groups = ctrl.pruned_module_groups_info
    name = next(name for name, layers in groups.items() if any("inner" in layer for layer in layers))
    ctrl.set_pruning_level({name: 2 / 3}, run_batchnorm_adaptation=True)
    assert ctrl.current_groupwise_pruning_level[name] == pytest.approx(2 / 3)
    assert sorted(ctrl.current_groupwise_pruning_level.values()) == pytest.approx([0, 2 / 3])
    assert ctrl.pruning_level == pytest.approx(2 / 3 * 3456 / (3456 + 144 + 384))
    train(ctrl, model, batches, 2)  # the schedule does not touch it
    assert sorted(ctrl.current_groupwise_pruning_level.values()) == pytest.approx([0, 2 / 3])
    ctrl.set_pruning_level(0.5)
    assert of_layers(ctrl)["stem"] == 0.5
    with pytest.raises(ValueError, match="found no group 'innr', expected one of"):
        ctrl.set_pruning_level({"innr": 0.5})
    ctrl.set_pruning_level(1.0)  # nothing is emptied
    assert of_layers(ctrl) == pytest.approx({"stem": 0.5, "inner": 2 / 3, "depthwise": 2 / 3, "outer": 0.5})
    with pytest.raises(ValueError, match="found 1.5, expected between 0 and 1"):
        ctrl.set_pruning_level(1.5)


def test_half_precision(batches):
    """Weights in bfloat16 are ranked in float32: two filters that differ in the last place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 33), nn.ReLU(), nn.Conv2d(2, 3, 1)).bfloat16()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[0, 0, 0, 0] = 2.0
    entry = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"all_weights": True, "prune_first_conv": True}}
    config = NNCFConfig.from_dict({"compression": entry})
    ctrl, model = create_compressed_model(model, config, dummy_forward_fn=lambda m: m(torch.ones(1, 1, 33, 33).bfloat16()))
    assert ctrl.variable_values(ctrl.plan.edits[0])["mask"].reshape(-1).tolist() == [1, 0]


def test_resuming_takes_the_same_steps(batches):
    settings = {"init": 0.2, "pruning_target": 0.6, "pruning_steps": 3, "all_weights": True, **EVERYTHING}
    ctrl, model = pruned(batches, **settings)
    train(ctrl, model, batches)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    state = json.loads(json.dumps(ctrl.get_compression_state()))
    train(ctrl, model, batches, 2)
    entry = {"algorithm": "filter_pruning", "pruning_init": 0.2, "params": {k: v for k, v in settings.items() if k != "init"}}
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entry}), batches)
    other, resumed = create_compressed_model(Small(), config, state)
    resumed.load_state_dict(saved)
    train(other, resumed, batches, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_convolution_that_runs_twice_has_one_mask(batches):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again, self.head = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 10, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.again(self.stem(x)))).flatten(1)

    ctrl, model = pruned(batches, Twice(), pruning_target=0.5, pruning_steps=1, **EVERYTHING)
    train(ctrl, model, batches)
    (shared,) = [edit for edit in ctrl.plan if "again" in str(edit.site) and edit.site.slot == "weight"]
    assert len(shared.sites) == 2
    assert of_layers(ctrl) == {"stem": 0.5, "again": 0.5}


def test_with_quantization_sparsity_and_a_teacher(batches, tmp_path):
    int8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}
    sparse = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.3, "params": {"sparsity_target": 0.3}}
    teacher = {"algorithm": "knowledge_distillation", "type": "softmax"}
    ctrl, model = pruned(batches, more=(int8, sparse, teacher), pruning_target=0.5, pruning_steps=1, **EVERYTHING)
    train(ctrl, model, batches)
    assert ctrl.strip().stem.weight.shape == (8, 1, 3, 3)
    parity = ctrl.export_model(tmp_path / "pruned.onnx")
    assert parity.lsb < 3


class Attention(nn.Module):
    """A transformer block: 8 heads of 16 channels whose keys and values are shared by two each, and an FFN of 96 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(64, 128), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(128, 64)
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)
        self.norm1, self.norm2, self.head = nn.LayerNorm(64), nn.LayerNorm(64), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (part.unflatten(-1, (-1, 16)).transpose(1, 2) for part in (self.q(y), self.k(y), self.v(y)))
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        x = x + self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x + self.down(nn.functional.gelu(self.up(self.norm2(x)))))


def test_heads_and_ffn_channels_of_a_transformer():
    """Of four key-value heads one goes, with its two query heads; of 96 FFN channels 24."""
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 7, 64)
    with torch.no_grad():
        for layer, rows in ((model.q, 32), (model.k, 16), (model.v, 16)):
            layer.weight[rows : 2 * rows] *= 0.1  # the second head matters least
    entry = {"algorithm": "filter_pruning", "pruning_init": 0.25, "params": {"pruning_target": 0.25}}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 7, 64]}, "compression": entry})
    ctrl, model = create_compressed_model(model, config)
    assert of_layers(ctrl) == {"q": 0.25, "k": 0.25, "v": 0.25, "up": 0.25}
    masks = {str(edit.site).split("[")[1]: ctrl.variable_values(edit)["mask"].reshape(-1) for edit in ctrl.plan}
    assert masks["q]/linear_0|weight"].reshape(4, 32).sum(1).tolist() == [32, 0, 32, 32]
    assert masks["v]/linear_0|bias"].reshape(4, 16).sum(1).tolist() == [16, 0, 16, 16]
    assert ctrl.current_flops == 2 * 7 * (2 * 64 * 96 + 2 * 64 * 48 + 2 * 64 * 72 + 64 * 5)
    expected = model.eval()(x)
    smaller = ctrl.strip()
    assert (smaller.q.weight.shape, smaller.o.weight.shape) == ((96, 64), (64, 96))
    torch.testing.assert_close(smaller(x), expected, rtol=1e-4, atol=1e-4)


# Learned ranking ----------------------------------------------------------------------------------------------------------


class Search:
    """The user's callables, which write down what they were given."""

    def __init__(self):
        self.trials, self.masks, self.losses = [], [], iter([3.0, 2.0, 1.0, 4.0, 2.5])

    def train_steps(self, loader, model, optimizer, controller, steps):
        assert model.training and controller.loss() == 0
        controller.scheduler.epoch_step()
        self.trials.append({name: value.clone() for name, value in model.named_parameters()})
        self.masks.append({name: value.clone() for name, value in model.named_buffers() if name.endswith("mask")})
        for (x, y), _ in zip(loader, range(steps), strict=False):
            controller.scheduler.step()
            optimizer.zero_grad()
            (nn.functional.cross_entropy(model(x), y) + controller.loss()).backward()
            optimizer.step()

    def validate(self, model, loader):
        assert not model.training
        return 0.5, next(self.losses)


def learned(batches, model, search, **params):
    entry = {
        "algorithm": "filter_pruning",
        "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}},
        "params": {"interlayer_ranking_type": "learned_ranking", **params},
    }
    config = NNCFConfig.from_dict({"compression": entry})
    callables = {"train_steps_fn": search.train_steps, "validate_fn": search.validate}
    register_default_init_args(config, batches, val_loader=batches, **callables)
    return create_compressed_model(model, config)


def test_the_search_leaves_the_model_as_it_was(batches, tmp_path):
    torch.manual_seed(1)
    model, search = Small().eval(), Search()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file = tmp_path / "ranking.json"
    settings = {"generations": 5, "population_size": 3, "train_steps": 2, "max_pruning": 0.5}
    ctrl, model = learned(batches, model, search, legr_params=settings, save_ranking_coeffs_path=str(file))
    assert len(search.trials) == 5
    for trial in search.trials:
        assert all(torch.equal(value, before[name]) for name, value in trial.items())
    gone = [sum(int((mask == 0).sum()) for name, mask in masks.items() if "weight" in name) for masks in search.masks]
    assert min(gone) >= 20  # half of 40 filters, and their followers
    assert len({str([mask.tolist() for mask in masks.values()]) for masks in search.masks}) > 1
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters()) and not model.training
    assert all((ctrl.variable_values(edit)["mask"] == 1).all() for edit in ctrl.plan)

    found = json.loads(file.read_text())
    assert set(found) == {f"Small/Conv2d[{name}]/conv2d_0" for name in ("stem", "inner", "outer")}
    assert ctrl.get_compression_state()["ctrl_state"]["algorithms"]["filter_pruning"]["state"]["ranking"] == found
    again, _ = learned(batches, Small(), Search(), load_ranking_coeffs_path=str(file), pruning_target=0.4, pruning_steps=1)
    assert again.get_compression_state()["ctrl_state"]["algorithms"]["filter_pruning"]["state"]["ranking"] == found


def test_a_ranking_moves_pruning_between_layers(batches, tmp_path):
    """A scale of 1000 for the filters of `inner`: the others go first."""
    torch.manual_seed(1)
    model, file = Small(), tmp_path / "ranking.json"
    names = [f"Small/Conv2d[{name}]/conv2d_0" for name in ("stem", "inner", "outer")]
    file.write_text(json.dumps({name: [1000.0 if "inner" in name else 1.0, 0.0] for name in names}))
    ctrl, model = learned(batches, model, Search(), load_ranking_coeffs_path=str(file), pruning_target=0.3, pruning_steps=1)
    ctrl.scheduler.epoch_step()
    assert of_layers(ctrl) == pytest.approx({"stem": 12 / 16, "inner": 0, "depthwise": 0, "outer": 12 / 16})


def test_a_failing_trial_leaves_the_plain_model(batches):
    class Failing(Search):
        def validate(self, model, loader):
            raise RuntimeError("no data")

    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="no data"):
        learned(batches, model, Failing(), legr_params={"generations": 2, "train_steps": 1})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.stem) is nn.Conv2d


def test_mistakes_of_a_search(batches, tmp_path):
    with pytest.raises(ConfigError, match="interlayer_ranking_type: learned_ranking needs train_steps_fn, validate_fn and"):
        pruned(batches, interlayer_ranking_type="learned_ranking")
    with pytest.raises(ConfigError, match=r"save_ranking_coeffs_path: '.*nowhere' is no folder"):
        learned(batches, Small(), Search(), save_ranking_coeffs_path=str(tmp_path / "nowhere" / "ranking.json"))
    with pytest.raises(ConfigError, match=r"legr_params.max_pruning: found 0.98, expected at most 0.9500"):
        learned(batches, Small(), Search(), legr_params={"max_pruning": 0.98})
    optimizer = torch.optim.SGD(Small().parameters(), 0.1)
    with pytest.raises(ConfigError, match="legr_train_optimizer: found a SGD, expected a function that makes one of parameters"):
        register_default_init_args(
            NNCFConfig(), batches, train_steps_fn=print, validate_fn=print, val_loader=batches, legr_train_optimizer=optimizer
        )


def test_layers_that_lose_nothing_are_named_before_training(batches):
    """16 filters lose 8 from 0.5 on, 24 from a third on."""
    words = r"0.4 prunes nothing in 1 of 2 groups .*Conv2d\[stem\]/conv2d_0 and 1 coupled with it \(16: from 0.5 on\)$"
    with pytest.warns(PruningWarning, match=words):
        pruned(batches, prune_first_conv=True, pruning_target=0.4)
    words = r"0.3 prunes nothing: .*Conv2d\[stem\].* \(16: from 0.5 on\), Small/Conv2d\[inner\].* \(24: from 0.3333 on\)"
    with pytest.raises(ConfigError, match=words):
        pruned(batches, prune_first_conv=True, pruning_target=0.3)
    with pytest.raises(ConfigError, match="pruning_target: 0.01 prunes no filter at all, expected at least 0.025"):
        pruned(batches, prune_first_conv=True, pruning_target=0.01, all_weights=True)
