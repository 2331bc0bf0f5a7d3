"""What the algorithms that quantize have in common: groups of quantizers that begin in an epoch, and are switched by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from nncf_ext.algorithm import Algorithm, CompressionStage, Remembered, State, Training
from nncf_ext.config.quantization import StagedParams
from nncf_ext.files.schema import Saved
from nncf_ext.quantization import staged
from nncf_ext.schedules import Clock


class Groups(Saved):
    weights: bool
    activations: bool


class StagedState(Remembered):
    begun: Groups
    enabled: Groups


class StagedQuantizers(Algorithm):
    """State: see `nncf_ext.quantization.staged`."""

    params: StagedParams | None
    remembers: ClassVar[type[Remembered]] = StagedState
    commands: ClassVar[tuple[str, ...]] = (
        "enable_weight_quantization",
        "disable_weight_quantization",
        "enable_activation_quantization",
        "disable_activation_quantization",
        "init_range",
    )

    def start(self) -> State:
        return staged.start(self.params)

    def initialize(self, training: Training, state: State) -> State:
        staged.enter(training, state)
        return state

    def resume(self, training: Training, state: State) -> None:
        staged.enter(training, state)

    def take_up(self, training: Training, clock: Clock, state: State, saved: Mapping[str, Any]) -> State:
        return staged.at_epoch(clock.epoch, self.params)

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        return staged.epoch_step(training, clock, state, self.params, lambda: self.range_inits(training.graph, training.edits))

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        begun = set(state["begun"].values())
        if len(begun) > 1:
            return CompressionStage.PARTIALLY_COMPRESSED
        return CompressionStage.FULLY_COMPRESSED if True in begun else CompressionStage.UNCOMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        return ("epoch_step",) if False in state["begun"].values() else ()

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        waiting = [group for group, begun in state["begun"].items() if not begun and not state["enabled"][group]]
        if not waiting or self.params is None or not training.edits:
            return None
        epochs = [str(staged.first_epoch(self.params, group)) for group in waiting]
        return f"found {' and '.join(waiting)} not quantized, expected from epoch {' and '.join(epochs)} on"

    def enable_weight_quantization(self, training: Training, state: State) -> State:
        """The weights' quantizers work, from now on."""
        return staged.switch_quantizers(training, state, "weights", True)

    def disable_weight_quantization(self, training: Training, state: State) -> State:
        """The weights' quantizers do nothing, until they are enabled or their epoch begins."""
        return staged.switch_quantizers(training, state, "weights", False)

    def enable_activation_quantization(self, training: Training, state: State) -> State:
        """The activations' quantizers work, from now on."""
        return staged.switch_quantizers(training, state, "activations", True)

    def disable_activation_quantization(self, training: Training, state: State) -> State:
        """The activations' quantizers do nothing, until they are enabled or their epoch begins."""
        return staged.switch_quantizers(training, state, "activations", False)

    def init_range(self, training: Training, state: State) -> State:
        """All ranges start anew, from the float model's tensors (see `staged.init_ranges`)."""
        staged.init_ranges(training, staged.GROUPS, self.range_inits(training.graph, training.edits))
        return state
