"""Movement sparsity of transformers: the flagship recipe on a small BERT, and where heads and channels are in other families."""

import copy
import json
import pydoc_data.topics
from pathlib import Path

import pytest
import torch
import transformers
from nncf_ext_torch import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "movement_sparsity_bert.json"
LENGTH, CLASSES, STEPS = 32, 3, 12


def bert() -> transformers.BertForSequenceClassification:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.fixture(scope="module")
def batches():
    """Windows of Python's help texts and which of three texts each is from."""
    texts = sorted(pydoc_data.topics.topics.values(), key=len)[-CLASSES:]
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(STEPS):
        labels = torch.randint(CLASSES, (16,), generator=generator)
        starts = torch.randint(3000, (16,), generator=generator)
        windows = [texts[label][start : start + LENGTH] for label, start in zip(labels, starts, strict=True)]
        made.append((torch.tensor([[min(ord(c), 127) for c in window] for window in windows]), labels))
    return made


def train(ctrl, model, batches, epochs, learning_rate=0.02):
    model.train()
    scores = [p for name, p in model.named_parameters() if name.endswith("score")]
    others = [p for name, p in model.named_parameters() if not name.endswith("score")]
    optimizer = torch.optim.AdamW([{"params": scores, "lr": learning_rate}, {"params": others, "lr": 1e-3}])
    losses = []
    for _ in range(epochs):
        ctrl.scheduler.epoch_step()
        for ids, labels in batches:
            ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits, labels)
            (loss + ctrl.loss()).backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_bert_is_pruned_quantized_and_distilled_at_once(batches, tmp_path):
    config = NNCFConfig.from_json(CONFIG)
    movement = config["compression"][0]
    movement["params"].update(warmup_end_epoch=3, importance_regularization_factor=0.1)
    loader = [({"input_ids": ids}, labels) for ids, labels in batches[:2]]
    ctrl, model = create_compressed_model(bert(), register_default_init_args(config, loader))
    names = {kind: sum(edit.algorithm == kind for edit in ctrl.plan) for kind in ("movement_sparsity", "quantization")}
    assert names["movement_sparsity"] == 2 * 6 * 2 and names["quantization"] > 12  # weight and bias of 6 layers in 2 blocks

    assert ctrl.compression_rate == 0
    losses = train(ctrl, model, batches, 1)
    assert ctrl.compression_rate == 0 and ctrl.statistics().movement_sparsity.importance_threshold == -torch.inf
    losses += train(ctrl, model, batches, 2)
    in_warmup = ctrl.compression_rate
    assert in_warmup > 0.2
    saved = copy.deepcopy(model.state_dict()), json.loads(json.dumps(ctrl.get_compression_state()))
    losses += train(ctrl, model, batches, 1)
    assert sum(losses[-4:]) < sum(losses[:4])
    report = ctrl.statistics().movement_sparsity
    assert {group.units for group in report.structured} == {2, 96}
    assert any(group.kept < group.units for group in report.structured)
    assert 0 < ctrl.compression_rate <= in_warmup  # what was pruned inside of kept heads and channels is back
    assert ctrl.compression_stage().name == "PARTIALLY_COMPRESSED" or ctrl.compression_stage().name == "FULLY_COMPRESSED"
    assert saved[0] and saved[1]
