"""Who trains with the algorithms' loss of a forward."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

UNSEEN, COMPUTE_LOSS, LOSSES, LOOP = "unseen", "compute_loss", "losses", "loop"


class ForwardLoss:
    """The algorithms' loss of a training forward, for whoever asks first: the framework's own way to the model's loss
    (`compute_loss`), who sums the `losses` of this model or of one around it, or a loop that calls `controller.loss()`. Nobody
    counts it twice.

    By thread: replicas of a model in one process have a forward each. A framework that does not tell of forwards leaves all to
    loops. loss(): of the forward just made; None where it gave nothing to compare. task_weight: the task's factor, which
    those who sum `losses` do not know of: where it is not 1 they get nothing.
    """

    def __init__(self, loss: Callable[[], Any], task_weight: float):
        self._loss, self.task_weight = loss, task_weight
        self._taken: dict[int, str] = {}
        self._given: dict[int, Any] = {}
        self._spent: set[int] = set()

    @property
    def taken(self) -> str | None:
        """By whom; None before the first forward."""
        return self._taken.get(threading.get_ident())

    def forward(self, training: bool) -> None:
        """A forward of the model begins."""
        thread = threading.get_ident()
        self._given.pop(thread, None)
        self._spent.discard(thread)
        if training:
            self._taken[thread] = UNSEEN
        else:
            self._taken.pop(thread, None)

    def spend(self) -> None:
        """An optimizer takes its step: what is asked for from now on is for show."""
        self._given.pop(threading.get_ident(), None)
        self._spent.add(threading.get_ident())

    def claim(self) -> None:
        """`compute_loss` begins, and is going to ask."""
        if self.taken != LOOP:
            self._taken[threading.get_ident()] = COMPUTE_LOSS

    def for_compute_loss(self) -> Any:
        """None where a loop has it, or it is among the `losses` that were summed."""
        return None if self.taken in (LOOP, LOSSES) else self._give(COMPUTE_LOSS)

    def for_losses(self) -> Any:
        """None where there was no training forward, or somebody has it."""
        asked = self.taken in (UNSEEN, LOSSES) and self.task_weight == 1 and threading.get_ident() not in self._spent
        return self._give(LOSSES) if asked else None

    def for_loop(self) -> bool:
        """Whether the loop may have it."""
        thread = threading.get_ident()
        if thread in self._spent:
            return True
        if self.taken in (COMPUTE_LOSS, LOSSES):
            return False
        self._taken[thread] = LOOP
        return True

    def _give(self, to: str) -> Any:
        thread = threading.get_ident()
        if thread not in self._given:
            self._given[thread] = self._loss()
        self._taken[thread] = to
        return self._given[thread]
