"""How well networks learn that are sparse from the first step on: `python -m benchmarks.results_sparse` (`make results`).

Static masks, SET and RigL with Erdos-Renyi-Kernel levels beside the dense network, trained as long, with the same seeds; and the
decoder with RigL three times as long, which costs less than its dense training all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contest import Result
from benchmarks.seeded import Suite, run_suites

LEVELS = (0.8, 0.9, 0.98)
AIMED_AT = (0.8, 0.9)  # with targets
METHODS = ("static", "set", "rigl")
LONGER = 3


@dataclass(frozen=True)
class Schedule:
    """epochs, at a learning rate that falls along a cosine: AdamW's, or that of SGD with momentum 0.9 and weight decay 5e-4.
    Connections move every `interval` steps until three quarters of the training are over. dense: scopes that stay so. longer:
    whether RigL also trains LONGER times as long. fitted: whether the first weights are fitted to their sparse layers."""

    epochs: int
    rate: float
    interval: int
    adam: bool = False
    batch: int = 64
    dense: tuple[str, ...] = ()
    longer: bool = False
    fitted: bool = False
    levels: tuple[float, ...] = LEVELS


FITTED = ", sparse initialization"  # of these networks, which have no normalization
_LENET_300_100 = Schedule(100, 0.05, 100)
_LENET_5 = Schedule(40, 0.02, 50)
_SQUEEZENET = Schedule(20, 5e-4, 50, adam=True, batch=32)
NETWORKS = {
    "LeNet-300-100": _LENET_300_100,
    f"LeNet-300-100{FITTED}": replace(_LENET_300_100, fitted=True),
    "LeNet-5": _LENET_5,
    f"LeNet-5{FITTED}": replace(_LENET_5, fitted=True),
    "SqueezeNet": replace(_SQUEEZENET, levels=(0.8,)),
    f"SqueezeNet{FITTED}": replace(_SQUEEZENET, fitted=True),
    "residual network": Schedule(12, 0.05, 20),
    "decoder": Schedule(6, 5e-3, 20, adam=True, batch=32, dense=("{re}characters", "{re}head"), longer=True, levels=AIMED_AT),
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
    params = {"method": method, "sparsity_target": level, "distribution": "erk"}
    params |= {"sparse_initialization": schedule.fitted, "update_interval": schedule.interval}
    moving = {} if method == "static" else {"end": int(0.75 * steps)}
    dense = {"ignored_scopes": list(schedule.dense)} if schedule.dense else {}
    return {"algorithm": "dynamic_sparse_training", "params": {**params, **moving}, **dense}


def runs(name: str) -> list[tuple[str, str, float, Schedule]]:
    """What is trained of a network, sparse: (its name, method, level, schedule)."""
    schedule = NETWORKS[name]
    longer = replace(schedule, epochs=LONGER * schedule.epochs)
    alike = [(f"{method} {level}", method, level, schedule) for level in schedule.levels for method in METHODS]
    return [*alike, *((f"longer {level}", "rigl", level, longer) for level in schedule.levels if schedule.longer)]


def lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for network, schedule in NETWORKS.items():
        for level in schedule.levels:
            own = [seed[network] for seed in seeds]
            mean = {m: 100 * sum(s[f"{m} {level}"]["accuracy"] for s in own) / len(own) for m in METHODS}
            dense = 100 * sum(s["dense"]["accuracy"] for s in own) / len(own)
            gains = [mean["rigl"] - mean["static"], mean["rigl"] - mean["set"], mean["rigl"] - dense]
            least = [0.5, 0.5, -1.0]
            shown = [f"{g:+.2f}" + verdict(level, round(g, 9) >= at) for g, at in zip(gains, least, strict=True)]
            inference, training = (
                sum(s[f"rigl {level}"][f"{k}_flops"] for s in own) / len(own) for k in ("inference", "training")
            )
            costs = [f"{inference:.2f}x", f"{training:.2f}x", "", ""]
            if schedule.longer:
                longer = 100 * sum(s[f"longer {level}"]["accuracy"] for s in own) / len(own)
                costs[2:] = [f"{longer:.2f} ({longer - dense:+.2f})", f"{LONGER * training:.2f}x"]
            accuracies = [f"{value:.2f}" for value in (dense, *mean.values())]
            table.append([network, f"{level:.0%}", *accuracies, *shown, *costs])
    return table


def verdict(level: float, holds: bool) -> str:
    if level not in AIMED_AT:
        return ""
    return ", met" if holds else ", missed"


SUITES = {
    "results_sparse_torch": Suite("PyTorch", HEADER, lines),
    "results_sparse_keras": Suite("Keras", HEADER, lines),
}


if __name__ == "__main__":
    run_suites(__doc__, SUITES)
