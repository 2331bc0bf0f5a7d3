"""What `nncf-ext validate --model` and `preview_compression` say of a model is what compressing it does; they change nothing."""

import json

import pytest
import torch
from nncf_ext_torch import create_compressed_model, preview_compression, register_default_init_args
from nncf_ext_torch.demo import DigitsNet

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import cli
from tests.configs import FOR_IMAGES, shortened

SIZE = {"input_info": {"sample_size": [1, 1, 8, 8]}}
SEARCHED = ("hawq", "autoq")
INT8 = {"algorithm": "quantization"}
PRUNE = {"algorithm": "filter_pruning", "params": {"pruning_target": 0.4}}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Room for whole names, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "200")


def previewed(*compression, **top):
    return preview_compression(DigitsNet(), NNCFConfig.from_dict({**SIZE, **top, "compression": list(compression)}))


def happens(preview, name):
    return " ".join(next(layer for layer in preview.layers if name in layer.name).happens)


@pytest.mark.parametrize("file", FOR_IMAGES)
def test_it_says_what_compressing_does(file):
    config = shortened(NNCFConfig.from_json(file))
    config.setdefault("input_info", SIZE["input_info"])
    model = DigitsNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]

    preview = preview_compression(model, config)

    assert [type(module) for module in model.modules()] == classes
    assert all(module.training for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    text = str(preview)
    for layer in preview.layers:
        assert layer.name in text
    assert len([layer for layer in preview.layers if layer.operator in ("Conv", "Gemm")]) == 11
    touched = {site.node for edit in preview.plan for site in edit.sites}
    assert touched <= {layer.name for layer in preview.layers if layer.happens}

    if file.stem.endswith(("hawq", "autoq", "learned_ranking")):  # they need data to be compressed
        assert any(word in text for word in (*SEARCHED, "LeGR"))
        return
    register_default_init_args(config, [(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))])
    ctrl, _ = create_compressed_model(model, config)
    unknown = {"signed", "learned"}  # until there are data
    assert [(e.key, e.sites, e.transform.model_dump(exclude=unknown)) for e in preview.plan] == [
        (e.key, e.sites, e.transform.model_dump(exclude=unknown)) for e in ctrl.plan
    ]
    assert preview.plan.skipped == ctrl.plan.skipped


def test_pruning_and_quantization_layer_by_layer():
    preview = previewed(INT8, PRUNE, target_device="CPU")
    assert happens(preview, "Residual[0]/Conv2d[conv2]") == (
        "weight: filters: 40 of 64 stay (group 2), inputs follow (group 1) weight: int8 (7 bits used) symmetric per channel"
    )
    assert "weight, bias: follows (group 1)" in happens(preview, "Residual[0]/BatchNorm2d[bn1]")
    assert "int8 symmetric per tensor" in happens(preview, "nncf_model_input")
    reasons = {(node.rpartition("/")[0], by): reason for node, by, reason in preview.left_alone}
    assert "prune_first_conv is false" in reasons["DigitsNet/Sequential[stem]/Conv2d[0]", "filter_pruning"]
    assert "has a stride" in reasons["DigitsNet/Sequential[blocks]/Residual[1]/Conv2d[conv1]", "filter_pruning"]


def test_the_numbers_of_pruning_are_those_of_the_stripped_model():
    config = NNCFConfig.from_dict({**SIZE, "compression": {**PRUNE, "pruning_init": 0.4}})
    totals = preview_compression(DigitsNet(), config).totals["filter_pruning"]
    ctrl, _ = create_compressed_model(DigitsNet(), config)
    done = ctrl.statistics().filter_pruning
    assert (totals.full_flops, totals.flops_at_the_end) == (done.full_flops, done.current_flops)
    assert (totals.full_params_num, totals.params_num_at_the_end) == (done.full_params_num, done.current_params_num)
    assert sum(group.filters for group in totals.groups if group.group != "-") == totals.prunable_filters == 128
    assert all(group.left_alone for group in totals.groups if group.group == "-")


def test_what_the_weights_decide_is_not_invented():
    params = {"pruning_flops_target": 0.3, "all_weights": True}
    preview = previewed({**PRUNE, "params": params})
    assert "some of 64 go" in happens(preview, "Residual[0]/Conv2d[conv1]")
    assert preview.totals["filter_pruning"].flops_at_the_end is None


def test_masks_and_distillation():
    preview = previewed(
        {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.7}, "ignored_scopes": ["{re}head"]},
        {"algorithm": "knowledge_distillation", "type": "softmax", "temperature": 3},
    )
    assert happens(preview, "stem]/Conv2d") == "weight: magnitude mask, to 70% zeros over all such layers"
    assert happens(preview, "head") == ""
    assert [row[1:] for row in preview.left_alone] == [("magnitude_sparsity", "outside the scopes of magnitude_sparsity")]
    masks = preview.totals["magnitude_sparsity"]
    assert masks.weights_masked == sum(p.numel() for n, p in DigitsNet().named_parameters() if p.ndim > 1 and "head" not in n)
    assert "temperature 3" in preview.totals["knowledge_distillation"].loss


def test_bits_by_hand_are_known_and_searched_ones_are_not():
    pairs = [[4, "{re}stem.*conv2d_0\\|WEIGHT"]]
    manual = previewed({**INT8, "initializer": {"precision": {"bitwidth_per_scope": pairs}}}, target_device="TRIAL")
    assert "int4 symmetric" in happens(manual, "stem]/Conv2d")
    hawq = previewed({**INT8, "initializer": {"precision": {"type": "hawq"}}}, target_device="TRIAL")
    assert "bits by hawq, symmetric" in happens(hawq, "stem]/Conv2d")
    assert any("by hawq, out of 2, 4, 8" in what for _, what in hawq.by_data)


def test_a_unified_scale_is_named():
    class Cat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    preview = preview_compression(Cat(), NNCFConfig.from_dict({**SIZE, "compression": INT8}))
    assert "one scale with 1 more (scale 1)" in happens(preview, "Conv2d[a]")
    assert "one scale with 1 more (scale 1)" in happens(preview, "Conv2d[b]")


@pytest.mark.parametrize("columns", [80, 140, 200])
def test_the_command(tmp_path, capsys, monkeypatch, columns):
    """Every layer has a row, whose name is the end of the layer's and of no other's; where there is room, all of it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    config = {**SIZE, "compression": [PRUNE, INT8]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["validate", str(tmp_path / "config.json"), "--model", "nncf_ext_torch.demo:DigitsNet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("layers"))
    assert all(len(line) <= columns for line in lines[at:])  # what is before has the path of the file
    end = next(i for i in range(at, len(lines)) if lines[i].startswith("└"))
    assert len({len(line) for line in lines[at + 1 : end + 1]}) == 1, "the table is torn"
    shown = [""]
    for line in lines[at:end]:
        if line.startswith("├"):
            shown.append("")
        elif line.startswith("│"):
            shown[-1] += line.split("│")[1].strip()
    names = [layer.name for layer in preview_compression(DigitsNet(), NNCFConfig.from_dict(config)).layers]
    assert len(set(shown)) == len(names)
    assert all(name.endswith(end.removeprefix("…/")) for name, end in zip(names, shown, strict=True))
    if columns == 200:
        assert shown == names


@pytest.mark.parametrize(
    "config, words",
    [
        ('{"compression": {"algorithm": "quantization"}}', "input_info: missing"),
        (
            '{"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": {"algorithm": "quantization"}}',
            "does not run on inputs as input_info has them: RuntimeError",
        ),
        (
            '{"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": {"algorithm": "quantization", "ignored_scopes": "fc"}}',
            'compression.ignored_scopes: "fc" matches no node',
        ),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, config, words):
    (tmp_path / "config.json").write_text(config)
    assert cli.main(["validate", str(tmp_path / "config.json"), "--model", "nncf_ext_torch.demo:DigitsNet"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_a_compressed_model_is_refused():
    config = NNCFConfig.from_dict({**SIZE, "compression": INT8})
    _, model = create_compressed_model(DigitsNet(), config)
    with pytest.raises(ValueError, match="compressed"):
        preview_compression(model, config)
    with pytest.raises(ConfigError, match="input_info: missing"):
        preview_compression(DigitsNet(), NNCFConfig.from_dict({"compression": INT8}))
