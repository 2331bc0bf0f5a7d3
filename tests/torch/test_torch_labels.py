"""Models of Hugging Face as a user's loop calls them: with labels, of which they compute their own loss."""

import warnings

import pytest
import torch
import transformers
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.adapter import TorchAdapter
from nncf_ext_torch.data import target_of

from nncf_ext import NNCFConfig
from nncf_ext.data import model_inputs

IDS = torch.arange(40).reshape(4, 10) % 29 + 3
MASK = torch.ones_like(IDS)
MASK[:, 7:] = 0
TOKENS = {"input_ids": IDS, "attention_mask": MASK}
ALL_LOSE = [
    {"algorithm": "quantization"},
    {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5, "params": {"sparsity_target": 0.5, "sparsity_target_epoch": 1}},
    {"algorithm": "filter_pruning", "pruning_init": 0.3, "params": {"pruning_target": 0.3, "pruning_steps": 1}},
]


def bert(of=transformers.BertForSequenceClassification, labels=3):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    return of(transformers.BertConfig(vocab_size=32, max_position_embeddings=16, num_labels=labels, **sizes))


def gpt2():
    """Its cache is on, as it is when nobody says otherwise."""
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=1, n_head=4, **ends)
    )


def t5():
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=32, decoder_start_token_id=0, pad_token_id=0, **sizes)
    )


MODELS = {
    "classes": (bert, {**TOKENS, "labels": torch.tensor([0, 1, 2, 0])}),
    "next words": (gpt2, {**TOKENS, "labels": IDS}),
    "translation": (t5, {**TOKENS, "labels": IDS[:, :6].contiguous()}),
    "answers": (
        lambda: bert(transformers.BertForQuestionAnswering, labels=2),
        {**TOKENS, "start_positions": torch.tensor([1, 2, 3, 4]), "end_positions": torch.tensor([2, 3, 4, 5])},
    ),
}


def test_what_the_loss_takes_does_not_go_to_the_model_and_what_is_made_of_it_does():
    for name, expected in (("classes", TOKENS), ("next words", TOKENS), ("answers", TOKENS)):
        build, batch = MODELS[name]
        (inputs,) = model_inputs(TorchAdapter.data, build(), [batch], "data")
        assert dict(inputs.kwargs).keys() == expected.keys()
    build, batch = MODELS["translation"]
    (inputs,) = model_inputs(TorchAdapter.data, build(), [batch], "data")
    shifted = torch.cat((torch.zeros(4, 1, dtype=torch.long), batch["labels"][:, :-1]), 1)
    assert torch.equal(inputs.kwargs["decoder_input_ids"], shifted) and "labels" not in inputs.kwargs
    assert torch.equal(target_of(batch), batch["labels"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::nncf_ext.algorithms.filter_pruning.PruningWarning")  # four heads are few
@pytest.mark.parametrize("name", MODELS)
def test_they_train_with_labels_and_lose_all_that_they_can(name, tmp_path):
    torch.manual_seed(0)
    build, batch = MODELS[name]
    config = register_default_init_args(NNCFConfig.from_dict({"compression": ALL_LOSE}), [batch, batch])
    ctrl, model = create_compressed_model(build(), config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(2):
        ctrl.scheduler.epoch_step()
        for _ in range(2):
            ctrl.scheduler.step()
            optimizer.zero_grad()
            torch.manual_seed(1)  # dropout
            loss = model.train()(**batch).loss
            ctrl.total_loss(loss).backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*its config cannot say which channels")
        smaller = ctrl.strip()
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in build().parameters())
    with torch.no_grad():
        assert model.eval()(**batch).loss.item() == pytest.approx(smaller.eval()(**batch).loss.item(), rel=1e-5)
    assert ctrl.export_model(tmp_path / "m.onnx").exact
