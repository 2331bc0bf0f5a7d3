from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.edits import ObserverSpec
from nncf_ext.quantization.quantizers import NNCFQuantizer, QuantizerTransform
from tests.contract.data import data
from tests.contract.references import quantizers
from tests.contract.references.reference import AlgorithmReference, Forward, Term


def _size(transform: NNCFQuantizer, variables: Mapping[str, Any]) -> np.ndarray:
    """The symmetric range's scale, the other's span."""
    name = "scale" if transform.symmetric else "span"
    return np.exp(variables[f"log_{name}"]) if transform.logarithm else np.abs(variables[name])


def _grid(transform: NNCFQuantizer, variables: Mapping[str, Any]) -> tuple[np.ndarray, Any, Any]:
    """(step, lowest, highest): of the multiples of the step that there are."""
    lowest, highest = quantizers.levels_by_hand(transform)
    size = _size(transform, variables)
    if transform.symmetric:
        return size / highest, lowest, highest
    intervals = highest - lowest
    low, high = quantizers.through_zero(variables["low"], variables["low"] + size, intervals)
    step = (high - low) / intervals
    zero = np.round(-low / step)
    return step, -zero, intervals - zero


def _forward(transform: NNCFQuantizer, x: np.ndarray, variables: Mapping[str, Any], training: bool) -> np.ndarray:
    return quantizers.rounded(x, *_grid(transform, variables))


def _vjp(
    transform: NNCFQuantizer, x: np.ndarray, variables: Mapping[str, Any], g: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    assert transform.learned is not None
    step, first, last = _grid(transform, variables)
    v = x / step
    below, above = v < first, v > last
    inside = ~(below | above)
    axes = tuple(a for a, size in enumerate(step.shape) if size == 1)

    def total(value: np.ndarray) -> np.ndarray:
        return np.sum(value, axis=axes, keepdims=True)

    if not transform.learned:
        return g * inside, {}
    by_low = total(g * (below | above))
    by_step = total(g * (np.where(inside, np.round(v) - v, 0) + np.where(above, last - first, 0)))
    lowest, highest = quantizers.levels_by_hand(transform)
    # symmetric: step = |scale| / highest, low = lowest * step
    by_size = (by_step + lowest * by_low) / highest if transform.symmetric else by_step / (highest - lowest)
    name, others = ("scale", {}) if transform.symmetric else ("span", {"low": by_low})
    if transform.logarithm:
        return g * inside, {**others, f"log_{name}": by_size * np.exp(variables[f"log_{name}"])}
    return g * inside, {**others, name: by_size * np.sign(variables[name])}


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    """Staged quantization: groups of quantizers are off until their epoch, in which their ranges are initialised anew."""
    if algorithm.params is None or step is not None:
        return
    starts = {
        "weights": algorithm.params.weights_quant_start_epoch,
        "activations": algorithm.params.activations_quant_start_epoch,
    }
    kinds = {
        role: edit.transform.kind
        for role, edits in net.edits.items()
        for edit in edits
        if isinstance(edit.transform, QuantizerTransform)
    }
    roles = {role: "weights" if role.endswith("weight") else "activations" for role in kinds}
    if epoch < 0:
        net.off |= {(role, kinds[role]) for role, group in roles.items() if starts[group] > 0}
        return
    due = [role for role, group in roles.items() if starts[group] == epoch > 0]
    tensors: list[dict[str, np.ndarray]] = [{}, {}]
    for batch, seen in enumerate(tensors):
        net.forward(data(batch)[0], False, seen)
    for role in due:
        edits = net.edits[role]
        collector = RangeCollector(
            ObserverSpec(role.endswith("weight"), algorithm.initializer.range.type),
            edits[-1].transform.channel_axis,
            edits[-1].transform.symmetric,
            keeps_values=True,
        )
        for seen in tensors[:1] if role.endswith("weight") else tensors:
            value = seen[role]
            for edit in edits[:-1]:  # a mask comes before the quantizer
                value = net.transform(role, edit, value, False)
            collector.update(value)
        _, values = edits[-1].transform.calibrate(tensors[0][role].shape, collector.result())
        net.variables[role, kinds[role]] = {name: var.value for name, var in values.items()}
    net.off -= {(role, kinds[role]) for role in due}


def _clipping_loss(net: Any, algorithm: Any, forward: Forward) -> Term:
    factor = algorithm.activations.clipping_regularization_factor
    clips = {
        (role, "pact", "clip"): (net.variables[role, "pact"]["clip"], edit.lr_multiplier)
        for role, edits in net.edits.items()
        for edit in edits
        if edit.transform.kind == "pact" and edit.transform.learned
    }
    value = sum(float(np.sum(clip**2)) for clip, _ in clips.values())
    return Term(factor * value, by_variable={key: 2 * factor * clip * times for key, (clip, times) in clips.items()})


REFERENCE = AlgorithmReference(
    begins=_begins,
    loss=_clipping_loss,
    forwards={"quantizer": _forward, **quantizers.FORWARDS},
    vjps={"quantizer": _vjp, **quantizers.VJPS},
)
