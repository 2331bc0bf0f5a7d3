"""A target at a range of seeds, in a process of its own."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.fuzz import targets

WITHOUT, TORCH, KERAS = "no framework", "PyTorch", "Keras"


def home(name: str) -> str:
    """The framework that a target needs: not two of them in one process."""
    return WITHOUT if name in targets.TARGETS else KERAS if name.endswith("(Keras)") else TORCH


def target(name: str) -> targets.Target:
    if home(name) == WITHOUT:
        return targets.TARGETS[name]
    if home(name) == KERAS:
        from tests.fuzz import keras_targets as ours
    else:
        from tests.fuzz import torch_targets as ours
    return ours.TARGETS[name]


def run(name: str, start: int, stop: int) -> list[tuple[int, str]]:
    """(seed, problem) of those that went wrong."""
    found = []
    attempt = target(name)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(start, stop):
            problem = attempt(Path(folder), random.Random(f"{name}:{seed}"))
            if problem:
                found.append((seed, problem))
    return found
