"""Optimizer steps under watch: does the loop tell the schedules of them, and does it train with the algorithms' losses?"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from nncf_ext.forward_loss import LOOP, UNSEEN, ForwardLoss
from nncf_ext.schedules import Clock

_CALLS = {"epoch_step": "scheduler.epoch_step() before each epoch", "step": "scheduler.step() before each optimizer step"}


class Watched(Protocol):
    """The part of a controller that is watched."""

    forward_loss: ForwardLoss
    clock: Clock

    @property
    def name(self) -> str: ...

    @property
    def task_weight_asked(self) -> bool: ...

    def awaited(self) -> Mapping[str, Collection[str]]: ...

    def names_with_loss(self) -> Sequence[str]: ...

    def get_state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class StepWatch:
    """Warns once of each thing. advice: how users of the framework have the scheduler's calls made for them."""

    def __init__(self, controller: Watched, advice: str):
        self._controller, self._advice = controller, advice
        self._silent = self._silent_on_weight = False
        self._speaks_for_all = False  # a step was heard that stands for others, which are not
        self._weights_alone = self._state_loaded = False
        self._last_step: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    @property
    def has_to_see_steps(self) -> bool:
        """Whether there is a schedule or a loss that a training loop could leave out."""
        return bool(self._controller.awaited() or self._controller.names_with_loss() or not self._controller.task_weight_asked)

    def step_begins(self, optimizer: Any = None, several: bool = False) -> None:
        """An optimizer begins a step of the model's parameters.

        optimizer: where the framework tells of every step, which one. several: it may make several steps for one call of the
        scheduler's. A loop may call `scheduler.step()` after the optimizer's step, so it is missed at the next one only."""
        if self._controller.forward_loss.taken == LOOP and not self._silent_on_weight:
            self._silent_on_weight = True
            if not self._controller.task_weight_asked:
                warnings.warn(
                    f"{self._controller.name}: the config weighs the task's loss, and the loop does not: expected "
                    "controller.total_loss(loss) in place of loss + controller.loss()",
                    stacklevel=1,
                )
        if self._silent:
            return
        clock = self._controller.clock
        missing = {"epoch_step"} if clock.epoch < 0 else set()
        if optimizer is None:  # the first one speaks for all, as far as anybody knows of the schedule
            self._speaks_for_all = True
            missing |= {"step"} if clock.epoch < 0 and clock.step < 0 else set()
        else:
            unmoved = self._last_step.get(optimizer) == clock.step
            missing |= {"step"} if unmoved and not (several and clock.step >= 0) else set()
            self._last_step[optimizer] = clock.step
        self._warn_of(missing)

    def epoch_begins(self) -> None:
        """The scheduler is told of an epoch."""
        if self._speaks_for_all and self._controller.clock.step < 0 and not self._silent:
            self._warn_of({"step"})

    def _warn_of(self, missing: Collection[str]) -> None:
        missing = set(missing)
        waiting = {name: missing & set(calls) for name, calls in self._controller.awaited().items() if missing & set(calls)}
        if waiting:
            self._silent = True
            warnings.warn(self._nobody_steps(waiting), stacklevel=1)

    def _nobody_steps(self, waiting: Mapping[str, Collection[str]]) -> str:
        calls = [_CALLS[call] for call in _CALLS if any(call in each for each in waiting.values())]
        return (
            f"{', '.join(waiting)}: an optimizer trains the model, and nobody tells the schedule, which stays where it is: "
            f"expected {' and '.join(f'controller.{call}' for call in calls)}, or {self._advice}"
        )

    def dropped_loss(self) -> str | None:
        """What is wrong where an optimizer begins a step that was not trained with the losses of the algorithms."""
        controller, taken = self._controller, self._controller.forward_loss.taken
        controller.forward_loss.spend()
        if taken not in (None, UNSEEN):
            return None
        names = controller.names_with_loss()
        if not names:
            return None
        return (
            f"{', '.join(names)}: the model is trained without the loss of the algorithm, which does nothing then: expected "
            "controller.total_loss(loss), or loss + controller.loss(), where the loss of the training step is computed"
        )

    def state(self) -> dict[str, Any]:
        """To be saved with the weights."""
        return self._controller.get_state()

    def state_found(self, state: Mapping[str, Any]) -> None:
        """Weights were loaded, with the state of the controller whose model was saved; one of other algorithms is left alone.
        CheckpointError where it is none."""
        algorithms = state.get("algorithms") if isinstance(state, Mapping) else None
        if not isinstance(algorithms, Mapping) or set(algorithms) == set(self.state()["algorithms"]):
            self._controller.load_state(state)
        else:
            self.weights_loaded()

    def weights_loaded(self) -> None:
        """Weights and what transforms keep beside them were loaded, without the schedules' state."""
        self._weights_alone = not self._state_loaded

    def state_loaded(self) -> None:
        """The schedules' state was loaded."""
        self._state_loaded, self._weights_alone = True, False

    def starts_anew(self, calls: Collection[str]) -> None:
        """The schedules begin at their first epoch or step."""
        if self._weights_alone and calls:
            self._weights_alone = False
            warnings.warn(
                f"{self._controller.name}: weights of a compressed model were loaded without the state of its schedule, which "
                "begins anew: expected controller.load_state(state) with what get_compression_state() gave when they were saved, "
                "or scheduler.epoch_step(epoch) with the epoch to go on from",
                stacklevel=1,
            )
