"""Pruning that learns or iterates, beside magnitudes: `python -m benchmarks.results_learned`, a part of `make results`.

After Gale et al. 2019 (at equal sparsity) and Han et al. 2015 (12 times fewer weights without a loss).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from rich.console import Console

from benchmarks.contest import Result, machine, run_worker, show, write_section
from benchmarks.results import DOCUMENT, SEEDS

FLOAT_EPOCHS, EPOCHS, RATE, BATCH = 15, 24, 2e-3, 64  # of Adam, along a cosine
OWN_RATE = 10 * RATE  # of gates, noise and thresholds
LEVEL = 0.9  # what magnitudes prune, and what the others' factors were chosen for
RAMP: dict[str, Any] = {"warmup_epochs": 1, "ramp_epochs": 6}


def rounds(level: float) -> dict[str, Any]:
    return {
        "algorithm": "iterative_magnitude",
        "params": {"sparsity_target": level, "rounds": 4, "epochs_per_round": 4, "regularization": "l2"},
    }


MAGNITUDE = {
    "algorithm": "magnitude_sparsity",
    "params": {"power": 3, "sparsity_target": LEVEL, "sparsity_target_epoch": 14, "sparsity_freeze_epoch": 15},
}
ROWS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "LeNet-300-100": {
        "magnitude": MAGNITUDE,
        "iterative_magnitude": rounds(11 / 12),
        "l0_sparsity": {"algorithm": "l0_sparsity", "params": {"weight": 50.0, "initial_keep_probability": 0.5, **RAMP}},
        "variational_dropout": {"algorithm": "variational_dropout", "params": {"weight": 3.0, **RAMP}},
        "soft_threshold": {"algorithm": "soft_threshold", "params": {"weight": 0.5, "initial_threshold": -4}},
    },
    "LeNet-5": {"magnitude": MAGNITUDE, "iterative_magnitude": rounds(11 / 12)},
}
SUITES = {"results_learned_torch": "PyTorch", "results_learned_keras": "Keras"}
HEADER = (
    "network",
    "algorithm",
    "float, trained as long",
    "accuracy",
    "drop: mean",
    "worst",
    "fewer weights",
    "no loss at 12 times fewer",
)


def lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for network, rows in ROWS.items():
        floats = [seed[network]["float"] for seed in seeds]
        for name in rows:
            own = [seed[network][name] for seed in seeds]
            drops = [100 * (f - r["accuracy"]) for f, r in zip(floats, own, strict=True)]
            mean, left = sum(drops) / len(drops), sum(r["left"] for r in own) / len(own)
            target = ("met" if mean <= 0 and left < 1 / 11.9 else "missed") if name == "iterative_magnitude" else ""
            accuracies = [100 * sum(floats) / len(own), 100 * sum(r["accuracy"] for r in own) / len(own)]
            numbers = [*(f"{a:.2f}" for a in accuracies), f"{mean:+.2f}", f"{max(drops):+.2f}", f"{1 / left:.1f}x"]
            table.append([network, name, *numbers, target])
    return table


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="one seed: shows that all runs")
    arguments.add_argument("--only", choices=SUITES, help="one framework")
    options = arguments.parse_args()
    seeds = SEEDS[:1] if options.quick else SEEDS
    suites = [options.only] if options.only else list(SUITES)
    start, found = time.perf_counter(), {suite: [] for suite in suites}
    failed = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(run_worker, "", f"benchmarks.{suite}", str(seed)): suite for seed in seeds for suite in suites}
        for job in as_completed(jobs):
            suite, result = jobs[job], job.result()
            if "error" in result:
                failed = True
                Console(stderr=True).print(f"{SUITES[suite]} fails: {result['error']}", markup=False, highlight=False)
                continue
            found[suite].append(result)
            table = show(f"{SUITES[suite]}, {len(found[suite])} of {len(seeds)} seeds", HEADER, lines(found[suite]))
            if not options.quick:
                write_section(suite, f"{machine()}; one thread.\n\n{table}", DOCUMENT)
    Console(stderr=True).print(f"{time.perf_counter() - start:.0f} s")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
