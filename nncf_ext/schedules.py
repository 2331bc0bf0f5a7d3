"""Pure functions from training time to a compression level. Formulas: NNCF 2.x."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_MOST = 1 << 53  # steps: a float holds each number below


@dataclass(frozen=True)
class Clock:
    """Where training is. Counters start at -1: nothing has begun.

    epoch: current epoch; step: optimizer steps begun since the start; step_in_epoch: the same since the epoch began.
    steps_per_epoch: known once one whole epoch has passed.
    """

    epoch: int = -1
    step: int = -1
    step_in_epoch: int = -1
    steps_per_epoch: int | None = None

    def next_epoch(self, epoch: int | None = None) -> Clock:
        length = self.step_in_epoch + 1 if self.epoch >= 0 and self.step_in_epoch >= 0 else self.steps_per_epoch
        return replace(self, epoch=self.epoch + 1 if epoch is None else epoch, step_in_epoch=-1, steps_per_epoch=length)

    def next_step(self, step: int | None = None) -> Clock:
        step = self.step + 1 if step is None else step
        return replace(self, step=step, step_in_epoch=self.step_in_epoch + 1)

    def progress(self, steps_per_epoch: int | None) -> float:
        """Epochs passed, fractional where the length of an epoch is known; 0 before the first."""
        epoch = float(max(self.epoch, 0))
        if steps_per_epoch:
            epoch += min(max(self.step_in_epoch, 0) / steps_per_epoch, 1.0)
        return epoch

    def to_json(self) -> dict[str, Any]:
        """With NNCF 2.x's names of what it has too."""
        rest = {"step_in_epoch": self.step_in_epoch, "steps_per_epoch": self.steps_per_epoch}
        return {"current_epoch": self.epoch, "current_step": self.step, **rest}

    @classmethod
    def from_json(cls, saved: Any) -> Clock:
        """What `to_json` wrote, or NNCF 2.x saved of a scheduler. ValueError where it is something else."""
        known = saved if isinstance(saved, Mapping) else {}
        epoch: Any = known.get("current_epoch", known.get("epoch"))
        step: Any = known.get("current_step", known.get("step"))
        steps, within = known.get("steps_per_epoch", known.get("_steps_per_epoch")), known.get("step_in_epoch")
        whole = all(type(n) is int and -1 <= n < _MOST for n in (epoch, step, steps, within) if n is not None)
        if not whole or epoch is None or step is None or (steps is not None and steps < 1):
            raise ValueError(
                f"found {str(saved)[:99]}, expected what scheduler.get_state() gave: current_epoch, current_step, ..."
            )
        if within is None:  # NNCF does not save it
            within = min(step - max(epoch, 0) * steps, steps - 1) if steps else -1
        return cls(epoch, step, within, steps)


def polynomial(initial: float, target: float, epoch: float, target_epoch: float, power: float, concave: bool) -> float:
    """From `initial` at epoch 0 to `target` at `target_epoch`; concave rises fast first (Zhu & Gupta 2017 with power 3)."""
    if target_epoch == 0:
        return target
    x = min(max(epoch / target_epoch, 0.0), 1.0)
    return target - (target - initial) * (1 - x) ** power if concave else initial + (target - initial) * x**power


def exponential(initial: float, target: float, epoch: float, target_epoch: float) -> float:
    """The density 1 - level falls by the same factor every epoch."""
    if target_epoch == 0:
        return target
    first, last = 1 - initial, 1 - target
    return min(1 - max(first * (last / first) ** (epoch / target_epoch), last), target)


def multistep(boundaries: Sequence[float], levels: Sequence[float], epoch: float) -> float:
    """`levels[i]` between the i-th boundary and the next; one more level than boundaries."""
    return levels[bisect_right(sorted(boundaries), epoch)]


def exponential_with_bias(initial: float, target: float, epoch: float, target_epoch: float) -> float:
    """a * exp(-k * epoch) + b through (0, initial), (target_epoch / 8, 3/4 target) and (target_epoch, target).

    With z = exp(-k * target_epoch / 8) and c = (3/4 target - initial) / (target - initial) the three points give
    1 + z + ... + z^7 = 1/c. ValueError unless initial < 5/7 target, where that has a solution 0 < z < 1.
    """
    from scipy.optimize import brentq  # half a second to load

    if target_epoch == 0 or initial == target == 0:
        return target
    share = (0.75 * target - initial) / (target - initial) if target > initial else 0.0
    if share <= 1 / 8:
        raise ValueError(f"initial level: found {initial}, expected less than 5/7 of the target {target}")
    z: Any = brentq(lambda z: sum(z**i for i in range(8)) - 1 / share, 0.0, 1.0)
    a = (target - initial) / (z**8 - 1)
    return min(a * z ** (8 * epoch / target_epoch) + initial - a, target)


def adaptive(reached: float, level: float, target: float, bad_epochs: int, patience: int) -> tuple[float, int]:
    """The next level, and how many epochs it was met: one that `reached` came within 0.03 of `patience` times rises by 0.05."""
    if reached >= level - 0.03:
        bad_epochs += 1
    if bad_epochs >= patience:
        return min(level + 0.05, target), 0
    return min(level, target), bad_epochs
