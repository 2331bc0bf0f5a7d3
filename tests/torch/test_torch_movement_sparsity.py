"""Movement sparsity of transformers: the flagship recipe on a small BERT, and where heads and channels are in other families."""

import math
import pydoc_data.topics
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.forward_scope import in_forward

from nncf_ext import NNCFConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*its config cannot say which channels or heads are left:UserWarning")


def zeros(layer: torch.nn.Module) -> torch.Tensor:
    with in_forward():
        return layer.weight == 0


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


def test_bert_is_pruned_quantized_and_distilled_at_once(batches):
    config = NNCFConfig.from_json(CONFIG)
    config["compression"][0]["params"].update(warmup_end_epoch=3, importance_regularization_factor=0.02)
    loader = [({"input_ids": ids}, labels) for ids, labels in batches[:2]]
    ctrl, model = create_compressed_model(bert(), register_default_init_args(config, loader))
    counts = Counter(edit.algorithm for edit in ctrl.plan)
    assert counts["movement_sparsity"] == 2 * 6 * 2 and counts["quantization"] > 12  # weight and bias of 6 layers in 2 blocks

    losses = train(ctrl, model, batches, 1)
    assert ctrl.compression_rate == 0 and ctrl.statistics().movement_sparsity.importance_threshold == -math.inf
    losses += train(ctrl, model, batches, 2)
    in_warmup = ctrl.compression_rate
    assert in_warmup > 0.2 and ctrl.compression_stage().name == "PARTIALLY_COMPRESSED"
    losses += train(ctrl, model, batches, 1)
    assert sum(losses[-4:]) < sum(losses[:4])
    report = ctrl.statistics().movement_sparsity
    assert [group.units for group in report.structured] == [2, 96, 2, 96]
    assert all(group.kept > 0 for group in report.structured if group.units == 96)
    assert any(group.kept < group.units for group in report.structured)
    assert 0 < ctrl.compression_rate <= in_warmup  # what was pruned inside of kept heads and channels is back

    model.eval()
    with torch.no_grad():
        stripped = ctrl.strip()
        expected, found = model(batches[0][0]).logits, stripped(batches[0][0]).logits
    for layer, channels in zip(stripped.bert.encoder.layer, report.structured[1::2], strict=True):
        assert layer.intermediate.dense.weight.shape == (channels.kept, 64)
        assert layer.output.dense.weight.shape == (64, channels.kept)
    for layer, heads in zip(stripped.bert.encoder.layer, report.structured[::2], strict=True):
        assert layer.attention.self.query.weight.shape == (32 * max(heads.kept, 1), 64)
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() > 0.9  # the stripped one's activations are not quantized


def test_masks_stay_after_the_warm_up_although_momentum_and_decay_move_the_scores():
    torch.manual_seed(0)
    params = {"warmup_start_epoch": 0, "warmup_end_epoch": 1, "steps_per_epoch": 20, "importance_regularization_factor": 0.5}
    entry = {"algorithm": "movement_sparsity", "params": {**params, "enable_structured_masking": False}}
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 8]}, "compression": entry})
    ctrl, model = create_compressed_model(
        torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)), config
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0.5)
    masks = []
    for _ in range(3):
        ctrl.scheduler.epoch_step()
        for _ in range(20):
            ctrl.scheduler.step()
            x = torch.randn(32, 8)
            optimizer.zero_grad()
            (torch.nn.functional.mse_loss(model(x), x[:, :2]) + ctrl.loss()).backward()
            optimizer.step()
        masks.append([(zeros(model[i]), model[i].nncf_ext_weight_movement_mask_score.clone()) for i in (0, 2)])
    for (before, moved), (after, score) in zip(masks[1], masks[2], strict=True):
        assert before.any() and (before == after).all() and (moved != score).any()
    assert ctrl.loss() == 0

    ctrl.freeze(False)  # the scores decide again, by the threshold of before
    live = [model[i].nncf_ext_weight_movement_mask_score <= 0 for i in (0, 2)]
    assert all((zeros(model[i]) == low).all() for i, low in zip((0, 2), live, strict=True))
    ctrl.compression_rate = 0.75
    assert ctrl.compression_rate == pytest.approx(0.75, abs=0.01)


SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 50, "max_position_embeddings": 16}
IMAGE = {"image_size": 16, "patch_size": 8}
FAMILIES = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**TEXT, **SIZES)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**TEXT, **SIZES)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(**TEXT, dim=32, n_layers=1, n_heads=4, hidden_dim=48)
    ),
    "mobilebert": lambda: transformers.MobileBertModel(
        transformers.MobileBertConfig(**TEXT, **SIZES, embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=1)
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**IMAGE, **SIZES)),
    "swin": lambda: transformers.SwinModel(
        transformers.SwinConfig(image_size=16, patch_size=2, embed_dim=12, depths=[2], num_heads=[4], window_size=4)
    ),
    "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**IMAGE, **SIZES)),
    "wav2vec2": lambda: transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            vocab_size=32,
            conv_dim=(16, 16),
            conv_stride=(5, 2),
            conv_kernel=(10, 3),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            **SIZES,
        )
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_channels_are_found_in(family):
    """Scores that nothing moved are not above the final threshold, so that every head and channel goes."""
    model = FAMILIES[family]()
    inputs = {"wav2vec2": {"sample_size": [1, 400]}}.get(
        family, {"sample_size": [1, 3, 16, 16]} if family in ("vit", "clip", "swin") else {"sample_size": [1, 8], "type": "long"}
    )
    params = {"warmup_start_epoch": 0, "warmup_end_epoch": 1, "steps_per_epoch": 1, "importance_regularization_factor": 1}
    compression = {"algorithm": "movement_sparsity", "params": params}
    ctrl, _ = create_compressed_model(model, NNCFConfig.from_dict({"input_info": inputs, "compression": compression}))
    for epoch in range(2):
        assert ctrl.statistics().movement_sparsity.structured == ()
        ctrl.scheduler.epoch_step(epoch)
    groups = {group.units: group for group in ctrl.statistics().movement_sparsity.structured}
    assert {4, 48} <= set(groups) and all(group.kept == 0 for group in groups.values())
