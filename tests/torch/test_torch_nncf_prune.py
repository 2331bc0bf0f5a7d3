"""Masks and losses beside those of `nncf.prune` in NNCF 3.4, on the same weights."""

import copy

import nncf
import numpy as np
import pytest
import torch
from nncf.parameters import PruneMode
from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules
from nncf.torch.function_hook.pruning.rb.algo import get_pruned_modules as get_learned_masks
from nncf.torch.function_hook.pruning.rb.losses import RBLoss
from nncf_ext_torch import create_compressed_model
from torch import nn

from nncf_ext import NNCFConfig

EXAMPLE = torch.ones(1, 3, 8, 8)
LAYERS = {"0.weight": "0", "2.weight": "2", "5.weight": "5"}


class Net(nn.Sequential):
    def forward(self, x):  # not over `self`: nncf.prune adds a module that is no layer
        for name in map(str, range(6)):
            x = self.get_submodule(name)(x)
        return x


def net():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return Net(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


def ours(model, entry):
    config = NNCFConfig.from_dict({"input_info": {"sample_size": list(EXAMPLE.shape)}, "compression": entry})
    return create_compressed_model(copy.deepcopy(model), config)[0]


def layer_of(edit):
    return edit.site.node.split("/")[-2].partition("[")[2].rstrip("]")


def zeros(numbers, ratio):
    """NNCF masks the weights up to the one at place int((n - 1) * ratio), and that one too."""
    return int((numbers - 1) * ratio) + 1


@pytest.mark.parametrize("ratio", [0.3, 0.75])
@pytest.mark.parametrize(
    ("mode", "setting", "importance"),
    [
        (PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, "local", "abs"),
        (PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL, "global", "normed_abs"),
    ],
)
def test_magnitude_masks(mode, setting, importance, ratio):
    model = net()
    pruned = nncf.prune(copy.deepcopy(model), mode, ratio=ratio, examples_inputs=EXAMPLE)
    theirs = {LAYERS[name.replace(":", ".")]: hook.binary_mask.numpy() for name, hook in get_pruned_modules(pruned).items()}
    params = {"sparsity_level_setting_mode": setting, "weight_importance": importance}
    ctrl = ours(model, {"algorithm": "magnitude_sparsity", "params": params})
    if setting == "global":
        total = sum(mask.size for mask in theirs.values())
        ctrl.set_sparsity_level(zeros(total, ratio) / total)
    else:
        for edit in ctrl.plan:
            size = theirs[layer_of(edit)].size
            ctrl.set_sparsity_level(zeros(size, ratio) / size, edit.site.node)
    assert sorted(theirs) == sorted(map(layer_of, ctrl.plan))
    for edit in ctrl.plan:
        assert np.array_equal(ctrl.variable_values(edit)["mask"].astype(bool), theirs[layer_of(edit)])


@pytest.mark.parametrize("target", [0.2, 0.7])
def test_loss_of_learned_masks_and_its_gradient(target):
    model = net()
    pruned = nncf.prune(copy.deepcopy(model), PruneMode.UNSTRUCTURED_REGULARIZATION_BASED, examples_inputs=EXAMPLE)
    ctrl = ours(model, {"algorithm": "rb_sparsity", "sparsity_init": target, "params": {"sparsity_target": target}})
    theirs = {LAYERS[name.replace(":", ".")]: hook.mask for name, hook in get_learned_masks(pruned).items()}
    scores = {name.split(".")[0]: p for name, p in ctrl.model.named_parameters() if name.endswith("scores")}
    assert sorted(theirs) == sorted(scores)
    rng = torch.Generator().manual_seed(1)
    for layer, mask in theirs.items():
        assert torch.allclose(mask, scores[layer])  # the first scores are NNCF's
        drawn = torch.randn(mask.shape, generator=rng)
        with torch.no_grad():
            mask.copy_(drawn)
            scores[layer].copy_(drawn)
    ours_, expected = ctrl.loss(), RBLoss(pruned, target)()
    assert torch.allclose(ours_, expected, rtol=1e-5)
    ours_.backward()
    expected.backward()
    for layer, mask in theirs.items():
        assert torch.allclose(scores[layer].grad, mask.grad, rtol=1e-4, atol=1e-9)
