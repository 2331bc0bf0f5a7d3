"""What it costs to train sparse in PyTorch: `python -m benchmarks.sparse_training`, from the repository's root.

Steps: RigL with ERK at 80 % sparsity against the same model dense, 100 steps of each in turns, in one of which the connections
move; sums of CPU time on one thread. Moving: how long it takes to move the connections of all layers of ResNet-50, as wall-clock
time on all cores, and the process's memory after the fifth and after the last time.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.contest import Result, machine, report_result, run_worker, show, write_section

MOST, MOST_SECONDS, INTERVAL = 1.05, 0.150, 100
MODELS = {"resnet18": "ResNet-18", "bert": "BERT, 4 layers"}


def config(interval: int) -> Any:
    from nncf_ext import NNCFConfig

    params = {"method": "rigl", "sparsity_target": 0.8, "update_interval": interval, "end": 100 * interval}
    return NNCFConfig.from_dict({"compression": {"algorithm": "dynamic_sparse_training", "params": params}})


def compare(name: str, batch_size: int, rounds: int) -> dict[str, Any]:
    import torch
    from nncf_ext_torch import create_compressed_model

    from benchmarks.measure import interleaved, keep_freed_memory
    from benchmarks.train_step import build, loss_of

    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain, batch = build(name, batch_size)

    class Step:
        def __init__(self, model: Any, controller: Any = None) -> None:
            self.model, self.controller = model, controller
            self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

        def __call__(self) -> None:
            self.optimizer.zero_grad()
            loss = loss_of(self.model, batch)
            if self.controller is not None:
                self.controller.scheduler.step()
                loss = loss + self.controller.loss()
            loss.backward()
            self.optimizer.step()

    warmup = 3
    run = lambda model: model(batch)  # noqa: E731
    controller, model = create_compressed_model(copy.deepcopy(plain), config(rounds // 2 + warmup), dummy_forward_fn=run)
    controller.scheduler.epoch_step()
    times = interleaved({"plain": Step(plain), "rigl": Step(model, controller)}, rounds, warmup=warmup)
    assert controller.statistics().dynamic_sparse_training.updates == 1
    return {
        "average": sum(times["rigl"]) / sum(times["plain"]),
        "median": statistics.median(a / b for a, b in zip(times["rigl"], times["plain"], strict=True)),
        "plain_seconds": statistics.median(times["plain"]),
    }


def move(rounds: int) -> dict[str, Any]:
    import torch
    import transformers
    from nncf_ext_torch import create_compressed_model

    from benchmarks.measure import keep_freed_memory
    from nncf_ext.controller import Controller

    keep_freed_memory()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    images = torch.randn(2, 3, 64, 64)
    controller, model = create_compressed_model(model, config(1), dummy_forward_fn=lambda model: model(images))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    seconds: list[float] = []
    after_optimizer_step = Controller.after_optimizer_step

    def timed(self: Any) -> None:
        start = time.perf_counter()
        after_optimizer_step(self)
        seconds.append(time.perf_counter() - start)

    Controller.after_optimizer_step = timed  # pyright: ignore[reportAttributeAccessIssue]
    resident = []
    for _ in range(rounds):
        controller.scheduler.step()
        optimizer.zero_grad()
        model(images).logits.square().mean().backward()
        before = len(seconds)
        optimizer.step()
        resident.append(_resident())
        seconds[before:] = [sum(seconds[before:])]
    moving = [s for s in seconds if s > 1e-4]
    return {
        "seconds": statistics.median(moving),
        "weights": sum(p.numel() for p in model.parameters()),
        "memory": [resident[min(5, rounds) - 1], resident[-1]],
        "rounds": rounds,
    }


def _resident() -> float:
    """Megabytes that the process holds, where Linux tells."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if status.exists() else float("nan")


def row(name: str, batch_size: int, result: Result) -> list[str]:
    title = f"{MODELS[name]}, batch {batch_size}"
    if "error" in result:
        return [title, result["error"], "", ""]
    verdict = "met" if result["average"] <= MOST else "missed"
    return [title, f"{1000 * result['plain_seconds']:.0f}", f"{result['median']:.3f}", f"{result['average']:.3f}, {verdict}"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="few rounds: shows that all runs, not how fast")
    arguments.add_argument("--worker", nargs=3, metavar=("MODEL", "BATCH", "ROUNDS"), help=argparse.SUPPRESS)
    arguments.add_argument("--move", metavar="ROUNDS", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    if options.worker:
        model, *numbers = options.worker
        report_result(lambda: compare(model, *map(int, numbers)))
        return
    if options.move:
        report_result(lambda: move(int(options.move)))
        return
    rounds = 4 if options.quick else INTERVAL
    cases = [(model, size) for model in MODELS for size in (8, 32)]
    results = {case: run_worker("", "benchmarks.sparse_training", "--worker", *map(str, case), str(rounds)) for case in cases}
    header = ["", "dense step, ms", "step, times dense", f"average with one move in {INTERVAL}"]
    text = show(f"RigL's training step (target: <= {MOST} on average)", header, [row(*case, results[case]) for case in cases])
    moved = run_worker(
        "", "benchmarks.sparse_training", "--move", "4" if options.quick else "40", OMP_NUM_THREADS=str(os.cpu_count())
    )
    if "error" in moved:
        text += show("Moving connections", ["ResNet-50"], [[moved["error"]]])
    else:
        verdict = "met" if moved["seconds"] <= MOST_SECONDS else "missed"
        first, last = moved["memory"]
        text += "\n" + show(
            f"Moving the connections of all layers of ResNet-50 (target: <= {1000 * MOST_SECONDS:.0f} ms)",
            ["weights, million", "ms", "memory after 5 times, MB", f"after {moved['rounds']} times"],
            [[f"{moved['weights'] / 1e6:.1f}", f"{1000 * moved['seconds']:.0f}, {verdict}", f"{first:.0f}", f"{last:.0f}"]],
        )
    if not options.quick:
        write_section("sparse_training", f"{machine()}; steps on one thread.\n\n{text}")
    if any("error" in result for result in [*results.values(), moved]):
        sys.exit(1)


if __name__ == "__main__":
    main()
