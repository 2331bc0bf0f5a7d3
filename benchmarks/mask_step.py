"""What masks and codes cost in a PyTorch training step: `python -m benchmarks.mask_step`, from the repository's root.

Magnitude and RB sparsity and clustering of all weights against the same model without, in one process per model; their steps take
turns. A step is everything that a user's loop does: schedules, forward, losses, backward and an SGD step, which moves RB's scores
too. One thread, CPU time, medians of paired ratios. Masks cost the same for any batch, so small batches show them most.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import warnings
from dataclasses import asdict
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from benchmarks.contest import Result, machine, report_result, run_worker, show, write_section

MOST = 1.05
MODELS = {"resnet18": "ResNet-18", "bert": "BERT, 4 layers"}
ALGORITHMS = {
    "magnitude": {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5},
    "RB": {"algorithm": "rb_sparsity", "sparsity_init": 0.5},
    "clustering": {"algorithm": "weight_clustering"},
}


def compare(name: str, batch_size: int, rounds: int) -> dict[str, Any]:
    import torch
    from nncf_ext_torch import create_compressed_model

    from benchmarks.measure import interleaved, keep_freed_memory, paired_ratio
    from benchmarks.train_step import build, loss_of
    from nncf_ext import NNCFConfig

    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain, batch = build(name, batch_size)

    class Step:
        def __init__(self, model: Any, controller: Any = None) -> None:
            self.model, self.controller = model, controller
            self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

        def __call__(self) -> None:
            self.optimizer.zero_grad()
            loss = loss_of(self.model, batch)
            if self.controller is not None:
                self.controller.scheduler.step()
                loss = loss + self.controller.loss()
            loss.backward()
            self.optimizer.step()

    steps = {"plain": Step(plain)}
    for algorithm, entry in ALGORITHMS.items():
        config = NNCFConfig.from_dict({"compression": entry})
        controller, model = create_compressed_model(copy.deepcopy(plain), config, dummy_forward_fn=lambda model: model(batch))
        controller.scheduler.epoch_step()
        steps[algorithm] = Step(model, controller)
    times = interleaved(steps, rounds, warmup=3)
    return {
        "ratios": {name: asdict(paired_ratio(times[name], times["plain"])) for name in ALGORITHMS},
        "plain_seconds": statistics.median(times["plain"]),
        "weights": controller.statistics().weight_clustering.weights,
    }


def row(name: str, batch_size: int, result: Result) -> list[str]:
    title = f"{MODELS[name]}, batch {batch_size}"
    if "error" in result:
        return [title, "fails", result["error"], "", ""]
    cells = []
    for algorithm in ALGORITHMS:
        ratio = result["ratios"][algorithm]
        verdict = "met" if ratio["median"] <= MOST else "missed"
        cells.append(f"{ratio['median']:.3f} ({ratio['lower']:.3f}-{ratio['upper']:.3f}), {verdict}")
    return [title, f"{result['weights'] / 1e6:.1f}", f"{1000 * result['plain_seconds']:.0f}", *cells]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="two rounds: shows that all runs, not how fast")
    arguments.add_argument("--worker", nargs=3, metavar=("MODEL", "BATCH", "ROUNDS"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        model, *numbers = options.worker
        warnings.simplefilter("ignore")
        report_result(lambda: compare(model, *map(int, numbers)))
        return
    rounds = 2 if options.quick else 30
    cases = [(model, size) for model in MODELS for size in (8, 32)]
    results = {case: run_worker("", "benchmarks.mask_step", "--worker", *map(str, case), str(rounds)) for case in cases}
    header = ["", "weights, million", "plain step, ms", *(f"{name}, times plain" for name in ALGORITHMS)]
    text = show(f"Training step with masks and codes (target: <= {MOST})", header, [row(*case, results[case]) for case in cases])
    if not options.quick:
        write_section("mask_step", f"{machine()}; one thread.\n\n{text}")
    if any("error" in result for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
