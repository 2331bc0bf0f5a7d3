"""`make fuzz`: every target as often as the table says, over all processors; prints it and writes docs/reliability.md.

python -m tests.fuzz [--scale 0.1] [--only WORDS] [--seed FIRST]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path

from tests.fuzz.seeds import home, run

COUNTS = {
    "configs": 100_000,
    "packed files: arrays, bits, inspect, unpack": 20_000,
    "checkpoints: read, inspected, averaged": 10_000,
    "checkpoints loaded into a controller": 10_000,
    "states loaded into a controller": 5_000,
    "models made from damaged states": 1_000,
    "checkpoints loaded into a controller (Keras)": 1_000,
    "states loaded into a controller (Keras)": 1_000,
    "models made from damaged states (Keras)": 200,
    "files of weights loaded into a model (Keras)": 1_000,
    "teacher caches": 2_500,
    "traces of second derivatives": 2_500,
    "rankings of filters": 2_000,
    "run logs": 1_000,
    "safetensors to pack": 1_500,
    "ONNX to pack": 500,
    "kill -9 while writing": 200,
}
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0, help="share of the counts (default: %(default)s)")
    parser.add_argument("--only", default="", help="words in the names of the targets to run")
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    wanted = {name: max(1, round(count * options.scale)) for name, count in COUNTS.items() if options.only in name}
    rows, failed, started = [], 0, time.monotonic()
    for _, names in groupby(wanted, home):
        with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
            for name in names:
                found = problems(pool, name, range(options.seed, options.seed + wanted[name]), options.processes)
                rows.append((name, wanted[name], len(found)))
                failed += len(found)
                print(f"{name:50s} {wanted[name]:8,} {len(found):8,}", flush=True)
                for problem, times in Counter(problem[:120] for _, problem in found).most_common(8):
                    seed = next(seed for seed, other in found if other[:120] == problem)
                    print(f"    {times} times, seed {seed} say: {problem}")
    if not options.only:
        PAGE.write_text(page(rows, options.scale), encoding="utf-8")
    print(f"{sum(count for _, count, _ in rows):,} inputs in {time.monotonic() - started:.0f} s, {failed} failed")
    return 1 if failed else 0


def problems(pool: ProcessPoolExecutor, name: str, seeds: range, processes: int) -> list[tuple[int, str]]:
    """(seed, problem) of a target, in parts that keep all processes at work."""
    step = max(1, min(2000, -(-len(seeds) // processes)))
    parts = [(name, start, min(start + step, seeds.stop)) for start in range(seeds.start, seeds.stop, step)]
    return [problem for part in pool.map(run, *zip(*parts, strict=True)) for problem in part]


def page(rows: list[tuple[str, int, int]], scale: float) -> str:
    lines = [
        "# Reliability",
        "",
        "Written by `make fuzz`, which damages whole inputs at random and reads them in every way there is. An input fails where",
        "the reading ends in another error than the one of its kind of file, takes more than 5 s, changes a controller that",
        "refused it, or is accepted and breaks the next step. Seeds are fixed: `python -m tests.fuzz --only WORDS --seed N`",
        "begins at one. A quick part of it is in `make test`.",
        "",
        "Coverage-guided fuzzing (atheris 3.0, libFuzzer's mutations of bytes) was tried on configs, packed indexes and",
        "the state in checkpoints, from the same seeds, for a few seconds of processor time each. It found nothing, and",
        "reached fewer lines of nncf_ext than damage to JSON data in as much time (283 and 312; 266 and 293; 215 and",
        "253): bytes that are mutated are rarely JSON still. It is not kept.",
        "",
        "| tried | inputs | failed |",
        "|---|--:|--:|",
        *(f"| {name} | {count:,} | {failed:,} |" for name, count, failed in rows),
        "",
        f"Share of the full counts: {scale:g}. Python {platform.python_version()}, {platform.system()}. What is promised of each "
        "kind of file is in [SECURITY.md](../SECURITY.md).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
