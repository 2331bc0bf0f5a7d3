"""A target at a range of seeds, in a process of its own."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.fuzz import targets


def target(name: str) -> targets.Target:
    if name in targets.TARGETS:
        return targets.TARGETS[name]
    from tests.fuzz import torch_targets

    return torch_targets.TARGETS[name]


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
