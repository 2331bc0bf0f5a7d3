"""Layers and tensors that hold nothing, whole numbers among the parameters, tables that are read in bags or tied."""

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.trace import ExampleInput
from torch import nn

from nncf_ext import ConfigError, NNCFConfig

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

ALGORITHMS = {
    "quantization": {},
    "magnitude_sparsity": {"sparsity_init": 0.5},
    "dynamic_sparse_training": {"params": {"sparsity_target": 0.5}},
    "weight_clustering": {},
}
IDS, X = torch.arange(40).reshape(8, 5) % 20, torch.rand(8, 4, generator=torch.Generator().manual_seed(0))


class Nothing(nn.Module):
    """A layer without outputs, a slice without rows, parameters and buffers without elements."""

    def __init__(self):
        super().__init__()
        self.first, self.none, self.last = nn.Linear(4, 4), nn.Linear(4, 0), nn.Linear(4, 2)
        self.empty = nn.Parameter(torch.empty(0))
        self.register_buffer("no_rows", torch.empty(0, 4))

    def forward(self, x):
        x = torch.cat([self.first(x), self.none(x)], 1)
        return self.last(torch.relu(torch.cat([x, self.no_rows])))


class WholeNumbers(nn.Module):
    """An order of the channels as a Parameter, a factor as a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(3, 2)
        self.order = nn.Parameter(torch.tensor([1, 0, 3]), requires_grad=False)
        self.register_buffer("factor", torch.tensor(3))

    def forward(self, x):
        return self.last(self.first(x)[:, self.order] * self.factor)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(torch.relu(self.inner(self.table(ids))))


class Cached(nn.Module):
    """A cache that begins as Hugging Face's do, with a vector of nothing; and an output without axes."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x):
        held = torch.cat([torch.tensor([]), self.first(x)], dim=-2)
        scores = self.last(torch.relu(held))
        return scores, scores.sum()


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(20, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.bag(ids))


CASES = {"nothing": (Nothing, X), "whole_numbers": (WholeNumbers, X), "tied": (Tied, IDS), "bag": (Bag, IDS)}


def compressed(name, algorithm):
    build, x = CASES[name]
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"compression": {"algorithm": algorithm, **ALGORITHMS[algorithm]}})
    return *create_compressed_model(build(), register_default_init_args(config, [ExampleInput((x,))])), x


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", CASES)
def test_it_trains_and_is_stripped(name, algorithm):
    ctrl, model, x = compressed(name, algorithm)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()
    (model(x).square().mean() + ctrl.loss()).backward()
    optimizer.step()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    ctrl.statistics().to_str()
    with torch.no_grad():
        torch.testing.assert_close(ctrl.strip().eval()(x), model.eval()(x))


@pytest.mark.parametrize("name", ["nothing", "whole_numbers"])
def test_files_are_those_of_the_model(name, tmp_path):
    ctrl, _, _ = compressed(name, "quantization")
    assert ctrl.export_model(tmp_path / "model.onnx").difference < 1e-4


def test_what_is_left_alone_is_named():
    skipped = dict(compressed("nothing", "quantization")[0].statistics().skipped)
    assert skipped["Nothing/Linear[none]/linear_0"] == "Gemm of an empty tensor: no operator of ONNX"
    skipped = dict(compressed("bag", "quantization")[0].statistics().skipped)
    assert skipped["bag.weight"].startswith("read by Bag/EmbeddingBag[bag]/embedding_bag_0")


def test_a_tied_table_has_one_quantizer():
    (edit,) = [edit for edit in compressed("tied", "quantization")[0].plan if "Embedding" in str(edit.sites)]
    assert {site.node for site in edit.sites} == {"Tied/Embedding[table]/embedding_0", "Tied/Linear[head]/linear_0"}


def test_channels_that_are_chosen_by_position_stay():
    """Before training, not when the model is stripped: the positions would be others then."""
    config = {"algorithm": "filter_pruning", "params": {"all_weights": True}}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": config})
    with pytest.raises(ConfigError, match="first.*Gather WholeNumbers/__getitem___0 takes some of them, by position"):
        create_compressed_model(WholeNumbers(), config)


def test_what_is_joined_with_a_vector_of_nothing_loses_filters_and_numbers_without_axes_are_compared(tmp_path):
    pruning = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"pruning_target": 0.5, "prune_first_conv": True}}
    settings = NNCFConfig.from_dict({"compression": [{"algorithm": "quantization"}, pruning]})
    ctrl, _ = create_compressed_model(Cached(), register_default_init_args(settings, [(X, 0)]))
    assert ctrl.export_model(tmp_path / "m.onnx").exact
    assert ctrl.strip().first.weight.shape == (8, 4)
