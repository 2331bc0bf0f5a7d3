"""The text rows of `results.py`, in a process of their own: from which of Python's help texts is this piece?

A BERT of 2 layers reads the characters of a piece of 48. The texts are cut into stretches of 600 characters; every fifth
stretch is for testing, so that no piece of the test overlaps one of the training.
"""

from __future__ import annotations

import pydoc_data.topics
import sys

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks.contest import report_result
from benchmarks.results import TEXT_ROWS
from benchmarks.results_torch import Task, adam

LENGTH, STRETCH, CLASSES = 48, 600, 4
TRAIN, TEST = 3000, 1500


def pieces(testing: bool, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    texts = sorted(pydoc_data.topics.topics.values(), key=len)[-CLASSES:]
    rng = np.random.default_rng(int(testing))
    found, labels = [], rng.integers(CLASSES, size=number)
    for label in labels:
        stretches = [i for i in range(len(texts[label]) // STRETCH) if (i % 5 == 0) == testing]
        start = rng.choice(stretches) * STRETCH + rng.integers(STRETCH - LENGTH)
        found.append([min(ord(c), 127) for c in texts[label][start : start + LENGTH]])
    return torch.tensor(found), torch.from_numpy(labels)


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=128,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=LENGTH,
            num_labels=CLASSES,
        )
    )


def texts() -> Task:
    return Task(
        bert,
        pieces(False, TRAIN),
        pieces(True, TEST),
        [{"sample_size": [1, LENGTH], "type": "long", "keyword": "input_ids"}],
        lambda model, plain: adam(model, 2e-3 if plain else 1e-3, 0.02),
        lambda outputs: outputs.logits,
    )


if __name__ == "__main__":
    report_result(lambda: texts().results(TEXT_ROWS, int(sys.argv[1])))
