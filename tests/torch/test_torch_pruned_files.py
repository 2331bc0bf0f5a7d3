"""Pruned models in files: a config that says the new sizes, or a file that does."""

import copy
import warnings

import pytest
import safetensors.torch
import torch
import transformers
from nncf_ext_torch import create_compressed_model, load_pruned, save_pruned
from nncf_ext_torch.trace import ExampleInput
from torch import nn

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import CheckpointError
from tests.torch.test_torch_shrink import Constants, Residual, lively, outputs

pytestmark = pytest.mark.filterwarnings("ignore:.*its config cannot say which channels or heads are left:UserWarning")
TOKENS = ExampleInput((), {"input_ids": torch.tensor([[1, 2, 3, 4]])})
WORDS = {"sample_size": [1, 4], "type": "long", "filler": "ones", "keyword": "input_ids"}
SMALL = {"vocab_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 16}


def llama():
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48, "head_dim": 8}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **sizes, use_cache=False))


def qwen():
    """Its config has no size of a head, and takes one."""
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 48}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, **sizes, use_cache=False))


def bert():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.BertModel(transformers.BertConfig(**SMALL, **sizes))


def gpt2():
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4, use_cache=False)
    return transformers.GPT2LMHeadModel(config)


def pruned(model, input_info, target=0.5, params=(), **keys):
    torch.manual_seed(0)
    entry = {
        "algorithm": "filter_pruning",
        "pruning_init": target,
        "params": {"pruning_target": target, **dict(params)},
    }
    config = NNCFConfig.from_dict({"input_info": input_info, "compression": {**entry, **keys}})
    ctrl, _ = create_compressed_model(model.eval(), config)
    return ctrl.strip().eval()


def assert_equal(model, other, example=TOKENS):
    with torch.no_grad():
        for ours, theirs in zip(outputs(model.eval(), example), outputs(other.eval(), example), strict=True):
            assert torch.equal(ours, theirs)


CASES = {
    "llama": (llama, {}, {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 8}),
    "qwen": (qwen, {}, {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 24, "head_dim": 8}),
    "bert": (bert, {"ignored_scopes": "{re}query"}, {"num_attention_heads": 4, "intermediate_size": 24}),
    "gpt2": (gpt2, {"ignored_scopes": "{re}attn"}, {"n_head": 4, "n_embd": 32, "n_inner": 64}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_config_that_fits_loads_what_was_saved(name, tmp_path):
    build, keys, sizes = CASES[name]
    model = build()
    before = copy.deepcopy(model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smaller = pruned(model, WORDS, **keys)
    assert {key: getattr(smaller.config, key) for key in sizes} == sizes
    assert model.config.to_dict() == before.to_dict(), "the compressed model still has its channels"
    smaller.save_pretrained(tmp_path)
    assert_equal(smaller, type(model).from_pretrained(tmp_path))


def test_a_config_that_cannot_say_it_stays_and_the_file_does(tmp_path):
    """BERT's heads are as wide as its hidden states are divided by their number."""
    with pytest.warns(UserWarning, match=r"^BertModel: its config cannot say .* from_pretrained .*save_pruned\(") as told:
        smaller = pruned(bert(), WORDS)
    assert len(told) == 1
    assert smaller.config.num_attention_heads == 4
    assert smaller.encoder.layer[0].attention.self.num_attention_heads == 2
    save_pruned(smaller, tmp_path / "pruned.safetensors")
    torch.manual_seed(1)
    assert_equal(smaller, load_pruned(bert(), tmp_path / "pruned.safetensors"))


@pytest.mark.parametrize("build", [Residual, Constants])
def test_layers_that_differ(build, tmp_path):
    """And sizes, constants and buffers that only the model's code has. What is loaded trains, and is saved again."""
    example = ExampleInput((torch.rand(2, 3, 16, 16),))
    inputs = {"sample_size": [2, 3, 16, 16], "filler": "random"}
    smaller = pruned(
        lively(build()), inputs, params={"all_weights": True, "prune_first_conv": True, "prune_downsample_convs": True}
    )
    save_pruned(smaller, tmp_path / "one.safetensors")
    loaded = load_pruned(build(), tmp_path / "one.safetensors")
    assert_equal(smaller, loaded, example)
    optimizer = torch.optim.SGD(loaded.parameters(), 0.1)
    outputs(loaded.train(), example)[0].square().mean().backward()
    optimizer.step()
    save_pruned(loaded, tmp_path / "two.safetensors")
    assert_equal(loaded, load_pruned(build(), tmp_path / "two.safetensors"), example)


def test_tied_weights_stay_tied(tmp_path):
    smaller = pruned(gpt2(), WORDS)
    save_pruned(smaller, tmp_path / "tied.safetensors")
    loaded = load_pruned(gpt2(), tmp_path / "tied.safetensors")
    assert_equal(smaller, loaded)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_files_of_something_else(tmp_path):
    smaller = pruned(bert(), WORDS)
    save_pruned(smaller, tmp_path / "bert.safetensors")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    other = nn.Linear(2, 2)
    before = other.weight.clone()
    with pytest.raises(CheckpointError, match="is of another model than this Linear: .* is not the same in both"):
        load_pruned(other, tmp_path / "bert.safetensors")
    with pytest.raises(CheckpointError, match="found no sizes in it, expected a file of save_pruned"):
        load_pruned(other, tmp_path / "plain.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(CheckpointError, match="is truncated or not a checkpoint"):
        load_pruned(other, tmp_path / "text")
    header = {"nncf_ext": '{"format": 1, "state": {"pruned_sizes": {"bias": "code"}}}'}
    safetensors.torch.save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "odd.safetensors", header)
    with pytest.raises(CheckpointError, match="found no sizes in it, expected a file of save_pruned"):
        load_pruned(other, tmp_path / "odd.safetensors")
    header = {"nncf_ext": '{"format": 1, "state": {"pruned_sizes": {".training": 3}}}'}
    safetensors.torch.save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "odd.safetensors", header)
    with pytest.raises(CheckpointError, match="another model than this Linear: .training is not the same in both"):
        load_pruned(other, tmp_path / "odd.safetensors")
    save_pruned(nn.Linear(4, 2), tmp_path / "wider.safetensors")
    with pytest.raises(CheckpointError, match="another model than this Linear: weight is not the same in both"):
        load_pruned(other, tmp_path / "wider.safetensors")
    assert torch.equal(other.weight, before)


def test_a_model_with_quantizers_is_refused(tmp_path):
    config = {"input_info": {"sample_size": [1, 2]}, "compression": {"algorithm": "quantization"}}
    with pytest.warns(UserWarning, match="no data are registered"):
        ctrl, _ = create_compressed_model(nn.Sequential(nn.Linear(2, 2)), NNCFConfig.from_dict(config))
    with pytest.raises(ValueError, match=r"save_pruned: found a model with quantizers .* expected one of ctrl.strip\(quantizers"):
        save_pruned(ctrl.strip(), tmp_path / "quantized.safetensors")
    save_pruned(ctrl.strip(quantizers=False), tmp_path / "plain.safetensors")
    load_pruned(nn.Sequential(nn.Linear(2, 2)), tmp_path / "plain.safetensors")


def test_half_precision_stays(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2)).bfloat16()
    save_pruned(model, tmp_path / "half.safetensors")
    loaded = load_pruned(nn.Sequential(nn.Linear(2, 2)).bfloat16(), tmp_path / "half.safetensors")
    assert torch.equal(loaded[0].weight, model[0].weight) and loaded[0].weight.dtype == torch.bfloat16
