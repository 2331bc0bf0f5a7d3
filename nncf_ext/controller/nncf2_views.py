"""The controller as NNCF 2.x shows it: schedulers and losses, of all algorithms together and of each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from nncf_ext.algorithm import Algorithm, CompressionStage
from nncf_ext.report import CompressionStatistics
from nncf_ext.schedules import Clock


class Composite(Protocol):
    """The controller of all algorithms, of which these are views."""

    clock: Clock

    @property
    def model(self) -> Any: ...

    @property
    def algorithms(self) -> Sequence[Algorithm]: ...

    @property
    def child_ctrls(self) -> list[ChildController]: ...

    def reported_values(self, algorithm: Algorithm, method: str) -> Mapping[str, Any]: ...

    def advance(self, clock: Clock, event: str) -> None: ...

    def load_clock(self, state: Mapping[str, Any]) -> None: ...

    def loss_for_loop(self) -> Any: ...

    def statistics(self, quickly_collected_only: bool = False) -> CompressionStatistics: ...

    def get_state(self) -> dict[str, Any]: ...


class Scheduler:
    """Tells the algorithms that an epoch or an optimizer step begins."""

    def __init__(self, controller: Composite):
        self._controller = controller

    def __getattr__(self, name: str) -> Any:
        """The algorithms' own, as NNCF 2.x names them: `current_sparsity_level`, `target_level`, `freeze_epoch`, ..."""
        return _reported_value(vars(self).get("_controller"), "schedule", name)

    @property
    def child_schedulers(self) -> list[ReportedValues]:
        """The algorithms' one by one, as NNCF 2.x's composite scheduler has them."""
        return [child.scheduler for child in self._controller.child_ctrls]

    @property
    def current_epoch(self) -> int:
        return self._controller.clock.epoch

    @property
    def current_step(self) -> int:
        return self._controller.clock.step

    def epoch_step(self, next_epoch: int | None = None) -> None:
        """To be called before each epoch."""
        self._controller.advance(self._controller.clock.next_epoch(next_epoch), "epoch_step")

    def step(self, next_step: int | None = None) -> None:
        """To be called before each optimizer step."""
        self._controller.advance(self._controller.clock.next_step(next_step), "step")

    def get_state(self) -> dict[str, Any]:
        return self._controller.clock.to_json()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over `get_state`, or a scheduler's state of NNCF 2.x. CheckpointError, and no change, where it is neither."""
        self._controller.load_clock(state)

    state_dict, load_state_dict = get_state, load_state


class CompressionLoss:
    """What the algorithms add to the task's loss; `loss()` and NNCF's `loss.calculate()` are the same."""

    def __init__(self, controller: Composite):
        self._controller = controller

    def __getattr__(self, name: str) -> Any:
        """The algorithms' own, as NNCF 2.x names them: `target_sparsity_rate`, `disabled`, `p`."""
        return _reported_value(vars(self).get("_controller"), "loss_settings", name)

    @property
    def child_losses(self) -> list[ReportedValues]:
        """The algorithms' one by one, as NNCF 2.x's composite loss has them."""
        return [child.loss for child in self._controller.child_ctrls]

    def __call__(self) -> Any:
        """A scalar of the framework, differentiable. Zero where `fit`, or who sums the model's `losses`, has it already."""
        return self._controller.loss_for_loop()

    calculate = __call__

    def get_state(self) -> dict[str, Any]:
        """Empty: what the losses depend on is in the algorithms' states."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing: see `get_state`."""


class ReportedValues:
    """What one algorithm's scheduler or loss tells. The controller's own step, and add up, those of all algorithms."""

    def __init__(self, controller: Composite, algorithm: Algorithm, method: str):
        self._of = controller, algorithm, method

    def __getattr__(self, name: str) -> Any:
        controller, algorithm, method = vars(self).get("_of", (None, None, ""))
        reported = controller.reported_values(algorithm, method) if controller is not None else {}
        if name in reported:
            return reported[name]
        whose = "controller.scheduler" if method == "schedule" else "controller.loss"
        raise AttributeError(f"{getattr(algorithm, 'algorithm', '')} tells no {name!r} here: see {whose}, which is that of all")


class ChildController:
    """One algorithm of a controller, to be looked at; what is done, is done by the controller."""

    def __init__(self, controller: Composite, algorithm: Algorithm):
        self._controller, self._algorithm = controller, algorithm
        self.name = algorithm.algorithm

    @property
    def model(self) -> Any:
        return self._controller.model

    @property
    def scheduler(self) -> ReportedValues:
        return ReportedValues(self._controller, self._algorithm, "schedule")

    @property
    def loss(self) -> ReportedValues:
        return ReportedValues(self._controller, self._algorithm, "loss_settings")

    def statistics(self, quickly_collected_only: bool = False) -> CompressionStatistics:
        whole = self._controller.statistics(quickly_collected_only)
        return replace(whole, reports={self.name: whole.reports[self.name]})

    def compression_stage(self) -> CompressionStage:
        saved = self._controller.get_state()["algorithms"][self.name]
        return CompressionStage(saved["compression_stage"])

    def __getattr__(self, name: str) -> Any:
        """Commands and readings of this algorithm, else AttributeError."""
        algorithm = vars(self).get("_algorithm")
        if algorithm is not None and name in (*algorithm.commands, *algorithm.readings):
            return getattr(self._controller, name)
        raise AttributeError(f"the controller of {vars(self).get('name')} has no {name!r}")


def _reported_value(controller: Composite | None, method: str, name: str) -> Any:
    reported = (
        [controller.reported_values(algorithm, method) for algorithm in controller.algorithms] if controller is not None else []
    )
    for values in reported:
        if name in values:
            return values[name]
    raise AttributeError(f"no algorithm of this controller has a {name!r} here")
