"""How well networks learn that are sparse from the first step on: `python -m benchmarks.results_sparse` (`make results`).

Static masks, SET and RigL with Erdos-Renyi-Kernel levels beside the dense network, trained as long, with the same seeds; and RigL
trained three times as long, which costs less than the dense training all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contest import Result
from benchmarks.seeded import Suite, run_suites

LEVELS = (0.8, 0.9)
METHODS = ("static", "set", "rigl")
LONGER = 3


@dataclass(frozen=True)
class Schedule:
    """epochs, at a learning rate that falls along a cosine: Adam's, or that of SGD with momentum 0.9 and weight decay 5e-4.
    Connections move every `interval` steps until three quarters of the training are over."""

    epochs: int
    rate: float
    adam: bool = False
    batch: int = 64
    interval: int = 10


NETWORKS = {
    "LeNet-300-100": Schedule(20, 0.05),
    "LeNet-5": Schedule(12, 0.02),
    "residual network": Schedule(8, 0.05),
    "decoder": Schedule(6, 1e-2, adam=True, batch=32),  # its embeddings and its last layer stay dense
}
HEADER = (
    "network",
    "sparsity",
    "dense",
    "static",
    "SET",
    "RigL",
    "RigL - static",
    "RigL - SET",
    "RigL - dense",
    "FLOPs: inference",
    "training",
    "RigL, 3 times as long",
    "its training",
)


def config(method: str, level: float, steps: int, schedule: Schedule) -> dict[str, Any]:
    params = {"method": method, "sparsity_target": level, "distribution": "erk", "update_interval": schedule.interval}
    moving = {} if method == "static" else {"end": int(0.75 * steps)}
    dense = {"ignored_scopes": ["{re}characters", "{re}head"]} if schedule.adam else {}
    return {"algorithm": "dynamic_sparse_training", "params": {**params, **moving}, **dense}


def runs(name: str) -> list[tuple[str, str, float, Schedule]]:
    """What is trained of a network, sparse: (its name, method, level, schedule)."""
    schedule = NETWORKS[name]
    longer = replace(schedule, epochs=LONGER * schedule.epochs)
    alike = [(f"{method} {level}", method, level, schedule) for level in LEVELS for method in METHODS]
    return [*alike, *((f"longer {level}", "rigl", level, longer) for level in LEVELS)]


def lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for network in NETWORKS:
        for level in LEVELS:
            own = [seed[network] for seed in seeds]
            mean = {m: 100 * sum(s[f"{m} {level}"]["accuracy"] for s in own) / len(own) for m in METHODS}
            dense = 100 * sum(s["dense"]["accuracy"] for s in own) / len(own)
            gains = [mean["rigl"] - mean["static"], mean["rigl"] - mean["set"], mean["rigl"] - dense]
            least = [0.5, 0.5, -1.0]
            shown = [f"{g:+.2f}, {'met' if g >= at else 'missed'}" for g, at in zip(gains, least, strict=True)]
            inference, training = (
                sum(s[f"rigl {level}"][f"{k}_flops"] for s in own) / len(own) for k in ("inference", "training")
            )
            longer = 100 * sum(s[f"longer {level}"]["accuracy"] for s in own) / len(own)
            accuracies = [f"{value:.2f}" for value in (dense, *mean.values())]
            costs = [
                f"{inference:.2f}x",
                f"{training:.2f}x",
                f"{longer:.2f} ({longer - dense:+.2f})",
                f"{LONGER * training:.2f}x",
            ]
            table.append([network, f"{level:.0%}", *accuracies, *shown, *costs])
    return table


SUITES = {
    "results_sparse_torch": Suite("PyTorch", HEADER, lines),
    "results_sparse_keras": Suite("Keras", HEADER, lines),
}


if __name__ == "__main__":
    run_suites(__doc__, SUITES)
