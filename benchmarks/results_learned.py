"""Pruning that learns or iterates, beside magnitudes: `python -m benchmarks.results_learned`, a part of `make results`.

After Gale et al. 2019 (at equal sparsity) and Han et al. 2015 (12 times fewer weights without a loss).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.contest import Result
from benchmarks.seeded import Suite, run_suites

FLOAT_EPOCHS, EPOCHS, RATE, BATCH = 15, 24, 2e-3, 64  # of Adam, along a cosine
OWN_RATE = 10 * RATE  # of gates, noise and thresholds
LEVEL = 0.9  # what magnitudes prune, and what the others' factors were chosen for in PyTorch
RAMP: dict[str, Any] = {"warmup_epochs": 1, "ramp_epochs": 6}


def rounds(distribution: str) -> dict[str, Any]:
    when = {"rounds": 4, "epochs_per_round": 4}
    params = {"sparsity_target": 11 / 12, "distribution": distribution, **when, "regularization": "l2"}
    return {"algorithm": "iterative_magnitude", "params": params}


ROUNDS = {"iterative_magnitude": rounds("uniform"), "iterative_magnitude, erk": rounds("erk")}


def magnitude(level: float) -> dict[str, Any]:
    until = {"sparsity_target_epoch": 14, "sparsity_freeze_epoch": 15}
    return {"algorithm": "magnitude_sparsity", "params": {"power": 3, "sparsity_target": level, **until}}


ROWS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "LeNet-300-100": {
        "magnitude": magnitude(LEVEL),
        **ROUNDS,
        "l0_sparsity": {"algorithm": "l0_sparsity", "params": {"weight": 50.0, "initial_keep_probability": 0.5, **RAMP}},
        "variational_dropout": {"algorithm": "variational_dropout", "params": {"weight": 3.0, **RAMP}},
        "soft_threshold": {"algorithm": "soft_threshold", "params": {"weight": 0.5, "initial_threshold": -4}},
    },
    "LeNet-5": {"magnitude": magnitude(LEVEL), **ROUNDS},
}
LEARNED = ("l0_sparsity", "variational_dropout", "soft_threshold")
HEADER = (
    "network",
    "algorithm",
    "float, trained as long",
    "accuracy",
    "drop: mean",
    "worst",
    "fewer weights",
    "no loss at 12 times fewer",
    "above magnitude at as many zeros",
)


def entries(network: str, found: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is trained of a network: (name, entry of `compression`). found: what came of the rows so far; where zeros are learned,
    their share is known only then, and magnitudes are pruned to it in the next row."""
    for name, entry in ROWS[network].items():
        yield name, entry
        if name in LEARNED:
            yield equal(name), magnitude(1 - found[name]["left"])


def equal(name: str) -> str:
    return f"magnitude, as {name}"


def lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for network in ROWS:
        floats = [seed[network]["float"] for seed in seeds]
        for name in (row for row in seeds[0][network] if row != "float"):
            own = [seed[network][name] for seed in seeds]
            drops = [100 * (f - r["accuracy"]) for f, r in zip(floats, own, strict=True)]
            mean, left = sum(drops) / len(drops), sum(r["left"] for r in own) / len(own)
            target = ("met" if round(mean, 9) <= 0 and left < 1 / 11.9 else "missed") if name in ROUNDS else ""
            accuracies = [100 * sum(floats) / len(own), 100 * sum(r["accuracy"] for r in own) / len(own)]
            gains = [
                100 * (r["accuracy"] - s[network][equal(name)]["accuracy"])
                for r, s in zip(own, seeds, strict=True)
                if name in LEARNED
            ]
            gain = f"{sum(gains) / len(gains):+.2f}" if gains else ""
            numbers = [*(f"{a:.2f}" for a in accuracies), f"{mean:+.2f}", f"{max(drops):+.2f}", f"{1 / left:.1f}x"]
            table.append([network, name, *numbers, target, gain])
    return table


SUITES = {
    "results_learned_torch": Suite("PyTorch", HEADER, lines),
    "results_learned_keras": Suite("Keras", HEADER, lines),
}


if __name__ == "__main__":
    run_suites(__doc__, SUITES)
