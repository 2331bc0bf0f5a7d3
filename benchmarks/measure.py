"""Timing two or more steps against each other on a busy machine: interleaved, CPU time, paired ratios."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios, and the quartiles around it."""

    median: float
    lower: float
    upper: float


def keep_freed_memory() -> None:
    """For this process: glibc shall not give freed memory back to the operating system, as by default it does with large blocks.

    Fresh pages cost five times a copy of what is in them, and which of the steps that share a process has to ask for them is
    chance. Allocators that keep memory (jemalloc, tcmalloc) are what PyTorch's tuning guide advises for training on CPU.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc; the second takes no more than 32 MB
            libc.mallopt(parameter, 1 << 30 if parameter == -1 else 32 << 20)


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of every step in every round, by name; the `warmup` rounds before are not counted.

    Each round runs every step once, so a disturbance of the machine falls on all of them; the order turns round by round, so
    that none is always the one that finds cold caches. The clock's default counts the CPU time of this process, not the time
    it waited for others.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    collecting = gc.isenabled()
    try:
        for turn in range(-warmup, rounds):
            gc.collect()
            gc.disable()
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                start = clock()
                steps[name]()
                taken = clock() - start
                if turn >= 0:
                    seconds[name].append(taken)
            gc.enable()
    finally:
        if collecting:
            gc.enable()
        else:
            gc.disable()
    return seconds


def paired_ratio(times: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """How many times longer than `baseline`: the n-th time is divided by the n-th of the baseline, measured right beside it."""
    if len(times) != len(baseline) or not times:
        raise ValueError(f"paired ratios need as many times as baselines and at least one, got {len(times)} and {len(baseline)}")
    ratios = [time / base for time, base in zip(times, baseline, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, lower, upper)
