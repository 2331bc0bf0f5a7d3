"""Thirty architectures of Hugging Face transformers from small configs: text, vision, audio, encoders, decoders, both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from benchmarks.zoo.torch_subject import TorchSubject

_WIDTH, _WORDS, _LENGTH = 32, 64, 8
_TEXT = {
    "vocab_size": _WORDS,
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_DECODER = {**_TEXT, "num_key_value_heads": 1, "use_cache": False, "head_dim": 16}
_IMAGE = {"hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}


def _ids() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, _WORDS, (2, _LENGTH)), "attention_mask": torch.ones(2, _LENGTH, dtype=torch.long)}


def _pixels(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(2, 3, size, size)}


def _both() -> dict[str, torch.Tensor]:
    return {**_ids(), "decoder_input_ids": torch.randint(3, _WORDS, (2, 5))}


_ENCODER_DECODER = {
    "vocab_size": _WORDS,
    "d_model": _WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
_SPEECH = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}

# name -> (class of the model, class of the config, settings, inputs)
_MODELS: Mapping[str, tuple[str, str, Mapping[str, Any], Callable[[], dict[str, torch.Tensor]]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _TEXT, _ids),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": _WORDS, "dim": _WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 32},
        _ids,
    ),
    "roberta": ("RobertaForTokenClassification", "RobertaConfig", {**_TEXT, "pad_token_id": 1}, _ids),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 16}, _ids),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 16}, _ids),
    "deberta-v2": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        _ids,
    ),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", {**_TEXT, "pad_token_id": 1}, _ids),
    "mobilebert": (
        "MobileBertForSequenceClassification",
        "MobileBertConfig",
        {**_TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
        _ids,
    ),
    "modernbert": ("ModernBertForSequenceClassification", "ModernBertConfig", {**_TEXT, "attn_implementation": "eager"}, _ids),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": _WORDS, "n_embd": _WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 32, "use_cache": False},
        _ids,
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {**_TEXT, "ffn_dim": 64, "word_embed_proj_dim": _WIDTH, "use_cache": False},
        _ids,
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_TEXT, "use_cache": False}, _ids),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER, _ids),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_DECODER, "sliding_window": 4}, _ids),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER, _ids),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _DECODER, _ids),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _DECODER, _ids),
    "phi": ("PhiForCausalLM", "PhiConfig", {**_DECODER, "num_key_value_heads": 2}, _ids),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": _WORDS,
            "d_model": _WIDTH,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 2,
            "use_cache": False,
            "decoder_start_token_id": 0,
        },
        _both,
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", _ENCODER_DECODER, _both),
    "marian": ("MarianMTModel", "MarianConfig", _ENCODER_DECODER, _both),
    "vit": ("ViTForImageClassification", "ViTConfig", {**_IMAGE, "patch_size": 8}, _pixels),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**_IMAGE, "patch_size": 8}, _pixels),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**_IMAGE, "patch_size": 8}, _pixels),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        _pixels,
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": 32},
        _pixels,
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]},
        _pixels,
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 32,
        },
        lambda: _pixels(64),
    ),
    "mobilevit": (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"hidden_sizes": [32, 40, 48], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64], "image_size": 64},
        lambda: _pixels(64),
    ),
    "yolos": (
        "YolosForObjectDetection",
        "YolosConfig",
        {**_IMAGE, "image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 5},
        _pixels,
    ),
    "wav2vec2": (
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        {**_SPEECH, "num_feat_extract_layers": 2},
        lambda: {"input_values": torch.randn(2, 400)},
    ),
    "hubert": (
        "HubertForSequenceClassification",
        "HubertConfig",
        {**_SPEECH, "num_feat_extract_layers": 2},
        lambda: {"input_values": torch.randn(2, 400)},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **_ENCODER_DECODER,
            "num_mel_bins": 20,
            "max_source_positions": 25,
            "max_target_positions": 16,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        lambda: {"input_features": torch.randn(2, 20, 50), "decoder_input_ids": torch.randint(3, _WORDS, (2, 5))},
    ),
    "audio-spectrogram-transformer": (
        "ASTForAudioClassification",
        "ASTConfig",
        {
            "hidden_size": _WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "patch_size": 8,
            "max_length": 32,
            "num_mel_bins": 16,
            "frequency_stride": 8,
            "time_stride": 8,
        },
        lambda: {"input_values": torch.randn(2, 32, 16)},
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**_TEXT, "eos_token_id": 2, "bos_token_id": 1, "projection_dim": 16},
            "vision_config": {**_IMAGE, "patch_size": 8, "projection_dim": 16},
            "projection_dim": 16,
        },
        lambda: {**_ids(), **_pixels()},
    ),
}
NAMES = tuple(_MODELS)


def subject(name: str) -> TorchSubject:
    torch.manual_seed(0)
    model, config, settings, inputs = _MODELS[name]
    return TorchSubject(getattr(transformers, model)(getattr(transformers, config)(**settings)), kwargs=inputs())
