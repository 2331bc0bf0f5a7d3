"""Quantizers that begin to work in the course of training (NNCF 2.x's staged quantization), and switching them by hand.

The state is `{"begun": {group: whether its epoch has come}, "enabled": {group: whether it works}}` for the groups `weights` and
`activations`. A group that begins is enabled, and the ranges of its quantizers are initialised again from what the tensors have
become; afterwards only the user switches it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from nncf_ext.calibration.collectors import ranges_of
from nncf_ext.calibration.initialization import InitializationWarning, QuantizationRangeInitArgs
from nncf_ext.config.initialization import RangeInit
from nncf_ext.config.quantization import StagedParams
from nncf_ext.graph import Site
from nncf_ext.schedules import Clock

if TYPE_CHECKING:
    from nncf_ext.algorithm import State, Training

GROUPS = ("weights", "activations")


def group_of(site: Site) -> str:
    """The group of the quantizer at `site`."""
    return "weights" if site.is_parameter else "activations"


def start(params: StagedParams | None) -> State:
    """The state of a new model. Without `params` all quantizers work from the beginning."""
    return at_epoch(0, params)


def at_epoch(epoch: int, params: StagedParams | None) -> State:
    """The state in an epoch where nothing was switched by hand."""
    begun = {group: params is None or first_epoch(params, group) <= max(epoch, 0) for group in GROUPS}
    return {"begun": begun, "enabled": dict(begun)}


def enter(training: Training, state: State) -> None:
    """Switch the quantizers of a model, new or resumed, as the state says."""
    for edit in training.edits:
        training.attached.set_enabled(edit, state["enabled"][group_of(edit.site)])


def switch_quantizers(training: Training, state: State, group: str, enabled: bool) -> State:
    """The state with a group on or off; so are its quantizers."""
    state = {**state, "enabled": {**state["enabled"], group: enabled}}
    enter(training, state)
    return state


def epoch_step(
    training: Training, clock: Clock, state: State, params: StagedParams | None, starts: Callable[[], Mapping[str, RangeInit]]
) -> State:
    """The state when an epoch begins, in which groups may begin too. starts: how ranges are initialised, by edit key."""
    due = [g for g in GROUPS if params is not None and not state["begun"][g] and clock.epoch >= first_epoch(params, g)]
    if not due:
        return state
    init_ranges(training, due, starts())
    state = {key: {**state[key], **dict.fromkeys(due, True)} for key in ("begun", "enabled")}
    enter(training, state)
    return state


def init_ranges(training: Training, groups: Collection[str], starts: Mapping[str, RangeInit]) -> None:
    """Set the ranges of the quantizers of `groups` anew, with these off: of activations from the registered data (as they are
    where there are none), of weights from the values as masks leave them. What is signed stays signed."""
    attached, data = training.attached, training.extra(QuantizationRangeInitArgs)
    edits = [edit for edit in training.edits if group_of(edit.site) in groups]
    without = [e for e in edits if data is None and not e.of_parameters and e.key in starts and starts[e.key].samples(1)]
    if without:
        warnings.warn(
            f"range initialisation: {without[0].site} and {len(without) - 1} more quantizers of activations begin to work with "
            "the ranges they have: expected data, by register_default_init_args before the model was compressed",
            InitializationWarning,
            stacklevel=2,
        )
    ranges = ranges_of(
        training.adapter,
        edits,
        starts,
        training.weight_after_earlier_edits,
        partial(training.adapter.inference, attached.model, attached.traced, off=edits),
        partial(training.adapter.batch_statistics, attached.model),
        data.batches if data is not None else None,
    )
    for edit in edits:
        if edit.key in ranges:
            _, values = edit.transform.calibrate(edit.shape_in(training.graph), ranges[edit.key])
            for name, var in values.items():
                attached.assign(edit, name, var.value)


def first_epoch(params: StagedParams, group: str) -> int:
    """The epoch in which a group begins."""
    return params.weights_quant_start_epoch if group == "weights" else params.activations_quant_start_epoch
