"""Soups of torch models: a small network on digits, plain, and compressed with masks and quantizers."""

import copy

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, make_soup, register_default_init_args
from nncf_ext_torch.adapter import TorchAdapter
from nncf_ext_torch.demo import DigitsNet
from nncf_ext_torch.forward_scope import in_forward
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import load_checkpoint
from nncf_ext.soup import SoupError
from nncf_ext.tools import cli, demo

DATA = demo.load_digits()
IMAGES, LABELS = torch.from_numpy(DATA.train_images[:, None])[:512], torch.from_numpy(DATA.train_labels)[:512]
HELD_OUT = torch.from_numpy(DATA.test_images[:, None]), torch.from_numpy(DATA.test_labels)
BATCHES = list(zip(IMAGES.split(128), LABELS.split(128), strict=True))
CONFIG = {
    "input_info": {"sample_size": [1, 1, 8, 8]},
    "compression": [
        {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5, "params": {"schedule": "multistep", "multistep_steps": [99]}},
        {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 128}}},
    ],
}


def accuracy(model):
    model.eval()
    with torch.no_grad():
        return float((model(HELD_OUT[0]).argmax(1) == HELD_OUT[1]).float().mean())


def inputs():
    return [x for x, _ in BATCHES]


def fit(model, rate, seed, epochs=2, after_step=lambda: None):
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(LABELS), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(IMAGES[rows]), LABELS[rows]).backward()
            optimizer.step()
            after_step()


def net(seed=0):
    torch.manual_seed(seed)
    return DigitsNet((8, 8, 16, 16))


@pytest.fixture(scope="module")
def pretrained():
    model = net()
    fit(model, 0.05, 0)
    return model


def compressed(pretrained):
    config = register_default_init_args(NNCFConfig.from_dict(copy.deepcopy(CONFIG)), BATCHES)
    return create_compressed_model(copy.deepcopy(pretrained), config)


@pytest.fixture(scope="module")
def plain(pretrained):
    """The state dicts of two fine-tuned models and, last, of one with another start that was not trained."""
    models = [copy.deepcopy(pretrained), copy.deepcopy(pretrained), net(7)]
    for seed, model in enumerate(models[:2]):
        fit(model, 0.02 + 0.01 * seed, seed + 1, epochs=1)
    return [{name: value.numpy() for name, value in model.state_dict().items()} for model in models]


@pytest.fixture(scope="module")
def files(pretrained, tmp_path_factory):
    """Three checkpoints of compressed models with one mask."""
    folder = tmp_path_factory.mktemp("soup")
    for seed in range(3):
        ctrl, model = compressed(pretrained)
        fit(model, 0.02, seed + 1, epochs=1)
        ctrl.save_checkpoint(folder / f"{seed}.safetensors")
    return [folder / f"{seed}.safetensors" for seed in range(3)]


def test_uniform_with_fresh_statistics(pretrained, plain):
    model = copy.deepcopy(pretrained)
    soup = make_soup(model, plain[:2], evaluate=accuracy, batches=inputs)
    weight = soup.tensors["head.weight"]
    np.testing.assert_allclose(weight, (plain[0]["head.weight"] + plain[1]["head.weight"]) / 2, atol=1e-7)
    np.testing.assert_array_equal(model.head.weight.detach(), weight)
    averaged = (plain[0]["stem.1.running_var"] + plain[1]["stem.1.running_var"]) / 2
    assert not np.allclose(soup.tensors["stem.1.running_var"], averaged, rtol=1e-4)
    assert soup.tensors["stem.1.num_batches_tracked"] == plain[0]["stem.1.num_batches_tracked"]
    assert soup.score == accuracy(model) > 0.5


def test_statistics_are_taken_of_data_as_people_have_them(pretrained, plain):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, LABELS), 128)
    expected, *found = (
        make_soup(copy.deepcopy(pretrained), plain[:2], batches=batches).tensors["stem.1.running_var"]
        for batches in (inputs, BATCHES, loader, (IMAGES, LABELS))
    )
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], expected)
    np.testing.assert_allclose(found[2], expected, rtol=0.2)  # in other batches


def test_a_linear_model_computes_the_mean_of_the_outputs():
    x = torch.randn(4, 64)
    models = [nn.Linear(64, 10) for _ in range(3)]
    expected = torch.stack([model(x) for model in models]).mean(0)
    soup = nn.Linear(64, 10)
    make_soup(soup, [{name: value.numpy() for name, value in model.state_dict().items()} for model in models])
    torch.testing.assert_close(soup(x), expected)


def test_greedy_leaves_the_untrained_one_out(pretrained, plain):
    model = copy.deepcopy(pretrained)
    soup = make_soup(model, plain, "greedy", evaluate=accuracy, batches=inputs)
    assert soup.score >= max(soup.scores.values())
    assert soup.score == accuracy(model)
    assert soup.shares["ingredient 3"] == 0


def test_learned_is_at_least_the_greedy_one(pretrained, plain):
    model = copy.deepcopy(pretrained)
    held_out = list(zip(HELD_OUT[0].split(150), HELD_OUT[1].split(150), strict=True))
    settings = {"evaluate": accuracy, "batches": inputs, "loss": nn.functional.cross_entropy, "data": lambda: held_out}
    greedy = make_soup(model, plain, "greedy", evaluate=accuracy, batches=inputs)
    for by_layer in (False, True):
        soup = make_soup(model, plain, "learned", by_layer=by_layer, **settings)
        assert soup.score >= greedy.score and soup.score == accuracy(model)
        assert sum(soup.shares.values()) == pytest.approx(1)


def test_gradients_of_a_loss():
    """By hand: y = f * w x, loss = y * t, so dw = f t x, df = t w x; BatchNorm's statistics and frozen weights have none."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0))
    model[0].bias.requires_grad_(False).zero_()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
    x, target = torch.tensor([[3.0, 4.0]]), torch.tensor(2.0)
    value, by_factor, gradients = TorchAdapter().loss_gradients(model, lambda y, t: (y * t).sum(), (x, target), 0.5)
    assert (value, by_factor) == (11.0, 22.0)
    assert set(gradients) == {"0.weight", "1.weight", "1.bias"}
    np.testing.assert_allclose(gradients["0.weight"], [[3.0, 4.0]])


def test_the_gradient_of_a_shared_weight_has_its_last_name():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    gradients = TorchAdapter().loss_gradients(model, lambda y, t: y.sum(), (torch.ones(1, 2), None), 1.0)[2]
    assert list(gradients) == ["1.weight"]


def test_compressed_models_keep_mask_and_average_ranges(pretrained, files, tmp_path):
    ctrl, model = compressed(pretrained)
    soup = make_soup(model, files, evaluate=accuracy, batches=inputs)
    stored = [load_checkpoint(path)[0] for path in files]
    masks = [name for name in soup.tensors if name.endswith("_mask_mask")]
    scales = [name for name in soup.tensors if name.endswith("_scale")]
    assert len(masks) >= 8 and len(scales) >= 8
    for name in masks:
        np.testing.assert_array_equal(soup.tensors[name], stored[0][name])
    for name in scales:
        np.testing.assert_allclose(soup.tensors[name], np.mean([one[name] for one in stored], 0), rtol=1e-6)
    assert ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers == pytest.approx(0.5, abs=0.01)
    soup.save(tmp_path / "soup.safetensors")
    other, again = compressed(pretrained)
    other.load_checkpoint(tmp_path / "soup.safetensors")
    assert accuracy(again) == soup.score > 0.5
    zeros = sum(int((p == 0).sum()) for n, p in other.strip().named_parameters() if p.ndim > 1)
    assert zeros / sum(p.numel() for p in pretrained.parameters() if p.ndim > 1) >= 0.5


def test_different_masks(pretrained, files, tmp_path):
    ctrl, model = compressed(pretrained)
    ctrl.load_checkpoint(files[0])
    fit(model, 0.3, 9, epochs=1)
    ctrl.set_sparsity_level(0.4)
    ctrl.save_checkpoint(tmp_path / "other.safetensors")
    pair = [files[0], tmp_path / "other.safetensors"]
    with pytest.raises(SoupError, match="its mask differs from that of"):
        make_soup(model, pair)
    name, mask = "head.weight", "head.nncf_ext_weight_mask_mask"
    stored = [load_checkpoint(path)[0] for path in pair]
    zeros = {"union": 0.0, "intersection": 0.0}
    for masks in zeros:
        tensors = make_soup(model, pair, masks=masks).tensors
        if masks == "union":  # the mean of what the models compute with
            np.testing.assert_allclose(
                tensors[name] * tensors[mask], np.mean([one[name] * one[mask] for one in stored], 0), atol=1e-6
            )
        zeros[masks] = ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers
    assert zeros["union"] <= 0.4 and zeros["intersection"] >= 0.5


def test_a_plain_model_cannot_take_compressed_ones(pretrained, files):
    with pytest.raises(SoupError, match="is absent, expected of shape .*compressed with the same config"):
        make_soup(copy.deepcopy(pretrained), files)


def test_greedy_from_the_command_line(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    script = tmp_path / "digits.py"
    script.write_text(
        "from tests.torch.test_torch_soup import accuracy, inputs, compressed, net\n"
        "def model():\n    return compressed(net())[1]\n",
        encoding="utf-8",
    )
    named = [f"--model={script}:model", f"--evaluate={script}:accuracy", f"--batches={script}:inputs"]
    output = tmp_path / "soup.safetensors"
    assert cli.main(["soup", *map(str, files), "--method", "greedy", *named, "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "score of the soup: 0." in out and "statistics were averaged" not in out
    assert cli.main(["soup", *map(str, files), "--output", str(output)]) == 0
    assert "BatchNorm statistics were averaged (blocks.0.bn1.running_var" in capsys.readouterr().out


def test_sparse_soups_between_pruning_rounds(pretrained, tmp_path):
    """docs/soups.md: prune, train copies under that mask, average, prune on from the soup."""
    ctrl, model = compressed(pretrained)
    masks = []
    for level in (0.5, 0.7):
        ctrl.set_sparsity_level(level)
        ctrl.save_checkpoint(tmp_path / "start.safetensors")
        for seed in range(2):
            ctrl.load_checkpoint(tmp_path / "start.safetensors")
            fit(model, 0.02, seed, epochs=1)
            ctrl.save_checkpoint(tmp_path / f"{seed}.safetensors")
        soup = make_soup(model, [tmp_path / f"{seed}.safetensors" for seed in range(2)], batches=inputs)
        masks.append(soup.tensors["head.nncf_ext_weight_mask_mask"])
        assert ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers == pytest.approx(level, abs=0.001)
    assert accuracy(model) > 0.5 and masks[1].sum() < masks[0].sum()


# averages over one training


@pytest.mark.parametrize("decay", [None, 0.9])
def test_running_averages_of_a_compressed_model(pretrained, tmp_path, decay):
    """Weights and ranges are averaged, masks are the model's, and the averaged model can be stripped."""
    ctrl, model = compressed(pretrained)
    average = ctrl.weight_average(decay)
    fit(model, 0.05, 1, epochs=1, after_step=average.update)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    with average.applied(inputs()):
        assert accuracy(model) > 0.5
        with in_forward():
            assert not torch.equal(model.head.weight, model.head._parameters["weight"])  # still masked and quantized
        ctrl.save_checkpoint(tmp_path / "averaged.safetensors")
        assert isinstance(ctrl.strip(), DigitsNet)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    saved = load_checkpoint(tmp_path / "averaged.safetensors")[0]
    for name, value in saved.items():
        if name.endswith("_mask_mask"):
            np.testing.assert_array_equal(value, trained[name])
    assert np.abs(saved["head.weight"] - trained["head.weight"].numpy()).max() > 1e-4


def test_averaged_training_resumes_bit_for_bit(pretrained, tmp_path):
    def run(cut):
        ctrl, model = compressed(pretrained)
        average = ctrl.weight_average(0.9)
        for epoch in range(2):
            if epoch and cut:
                ctrl.save_checkpoint(tmp_path / "run.safetensors")
                average.save(tmp_path / "average.safetensors")
                ctrl, model = compressed(net(5))
                average = ctrl.weight_average(0.9)
                ctrl.load_checkpoint(tmp_path / "run.safetensors")
                average.load(tmp_path / "average.safetensors")
            fit(model, 0.02, epoch, epochs=1, after_step=average.update)
        return average.tensors

    whole, resumed = run(False), run(True)
    assert all(whole[name].tobytes() == resumed[name].tobytes() for name in whole)


def test_torchs_own_averaged_model_works_with_compressed_models(pretrained):
    """`AveragedModel` with its EMA keeps masks in step, and gives what ours gives without a warm-up."""
    ctrl, model = compressed(pretrained)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_swa_multi_avg_fn())
    ours = ctrl.weight_average()

    def update():
        theirs.update_parameters(model)
        ours.update()

    fit(model, 0.05, 1, epochs=1, after_step=update)
    averaged = {name.removeprefix("module."): value.numpy() for name, value in theirs.state_dict().items()}
    for name, _ in model.named_parameters():
        np.testing.assert_allclose(averaged[name], ours.tensors[name], atol=1e-5)
    for name, value in model.state_dict().items():
        if name.endswith("_mask_mask"):
            np.testing.assert_array_equal(averaged[name], value)
    assert isinstance(ctrl.strip_model(copy.deepcopy(theirs.module)), DigitsNet)
