"""Tables of docs/results.md: workers with several seeds, two or more at a time, and what came of them so far after each."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from rich.console import Console

from benchmarks.contest import ROOT, Result, machine, run_worker, show, write_section

SEEDS = (0, 1, 2)
DOCUMENT = ROOT / "docs" / "results.md"


@dataclass(frozen=True)
class Suite:
    """Rows of docs/results.md. lines: of the table, from the results of the seeds. worker: its module, where that is not named as
    the section. part: what of its work is asked for. picture: draws the results."""

    title: str
    header: Sequence[str]
    lines: Callable[[Sequence[Result]], list[list[str]]]
    worker: str = ""
    part: str = ""
    picture: Callable[[Sequence[Result]], None] | None = None

    def arguments(self, name: str, seed: int) -> list[str]:
        return [f"benchmarks.{self.worker or name}", str(seed), *([self.part] if self.part else [])]


def run_suites(description: str | None, suites: Mapping[str, Suite]) -> None:
    """A script's main function. suites: by the section's name, which is also that of the worker's module in this package."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="one seed: shows that all runs")
    arguments.add_argument("--only", choices=suites, help="one suite")
    options = arguments.parse_args()
    seeds = SEEDS[:1] if options.quick else SEEDS
    wanted = [options.only] if options.only else list(suites)
    start, found = time.perf_counter(), {name: [] for name in wanted}
    failed = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            pool.submit(run_worker, "", *suites[name].arguments(name, seed), limit=3600): name
            for seed in seeds
            for name in wanted
        }
        for job in as_completed(jobs):
            name, result = jobs[job], job.result()
            suite = suites[name]
            if "error" in result:
                failed = True
                Console(stderr=True).print(f"{suite.title} fails: {result['error']}", markup=False, highlight=False)
                continue
            found[name].append(result)
            table = show(f"{suite.title}, {len(found[name])} of {len(seeds)} seeds", suite.header, suite.lines(found[name]))
            if not options.quick:
                write_section(name, f"{machine()}; one thread.\n\n{table}", DOCUMENT)
                if suite.picture is not None:
                    suite.picture(found[name])
    Console(stderr=True).print(f"{time.perf_counter() - start:.0f} s")
    if failed:
        sys.exit(1)
