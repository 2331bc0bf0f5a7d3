"""HAWQ: bits by the second derivatives of the loss (Dong et al. 2020, "HAWQ-V2"; the choice as an integer programme as in
Yao et al. 2021, "HAWQ-V3").

Rounding a weight W to Q(W) costs about half its mean second derivative times |Q(W) - W|^2. The bits with the smallest sum of that
are taken among those whose bit operations are few enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nncf_ext import numpy_xp
from nncf_ext.calibration.initialization import QuantizationPrecisionInitArgs
from nncf_ext.config.precision import PrecisionInit
from nncf_ext.edits import Edit, Plan
from nncf_ext.errors import ConfigError
from nncf_ext.quantization.precision.assignment import Choices, fewest_operations, least_damage
from nncf_ext.quantization.precision.dump import can_draw, draw_hawq, write
from nncf_ext.quantization.precision.hessian import mean_traces
from nncf_ext.quantization.precision.traces_file import read_traces
from nncf_ext.report import progress

if TYPE_CHECKING:
    from nncf_ext.algorithm import PlanningContext


def hawq(
    settings: PrecisionInit,
    choices: Choices,
    with_bits: Callable[[Mapping[str, int]], Plan],
    context: PlanningContext,
    json_path: str,
) -> dict[str, int]:
    """Edit key -> bits, of weights and of the activations that meet them."""
    if settings.dump_init_precision_data:
        can_draw(json_path)
    lowest, highest = choices.ratio(choices.most), choices.ratio(fewest_operations(choices))
    if not lowest * (1 - 1e-6) <= settings.ratio <= highest * (1 + 1e-6):
        raise ConfigError(
            f"{json_path}.compression_ratio: found {settings.ratio:g}, expected from {lowest:.4g} to {highest:.4g}, "
            "which is what the bits to choose from give on this model"
        )
    edits = {edit.key: edit for edit in with_bits({}) if edit.key in choices.uses}  # in the order of the plan
    traces = dict(zip(edits, _traces(settings, list(edits.values()), context, json_path), strict=True))
    perturbations = _perturbations(choices, with_bits, context)
    # A negative second derivative (the model is at no minimum) is no reason to want rounding errors.
    damage = {key: {bits: abs(traces[key]) * size for bits, size in perturbations[key].items()} for key in choices.weights}
    bits = choices.with_activations(least_damage(choices, damage, min(settings.ratio, highest)))
    if settings.dump_init_precision_data:
        found = {
            "compression_ratio": choices.ratio(bits),
            "metric": sum(damage[key][bits[key]] for key in choices.weights),
            "traces": {_name(key): traces[key] for key in edits},
            "perturbations": {_name(key): perturbations[key] for key in edits},
            "bitwidth_per_scope": [[bits[edit.key], _name(edit.key)] for edit in with_bits(bits) if edit.key in bits],
        }
        write(context.log_dir, "hawq", found, draw_hawq, json_path)
    return bits


def _name(key: str) -> str:
    """The quantizer as `bitwidth_per_scope` takes it."""
    return key.rpartition("|")[0]


def _traces(settings: PrecisionInit, edits: list[Edit], context: PlanningContext, json_path: str) -> np.ndarray:
    """Mean second derivative of each weight: from a file, or computed on the registered data."""
    if settings.traces_per_layer_path is not None:
        names = [_name(edit.key) for edit in edits]
        path = Path(settings.traces_per_layer_path)
        return read_traces(path, names, context.adapter.data.read_tensor, f"{json_path}.traces_per_layer_path")
    data: QuantizationPrecisionInitArgs | None = context.extra(QuantizationPrecisionInitArgs)
    if data is None:
        raise ConfigError(
            f"{json_path}: hawq needs the loss on labelled data: give register_default_init_args a criterion, or set "
            "traces_per_layer_path"
        )
    batches = _first_batches(data, settings.num_data_points, context, json_path)
    sites = [edit.site for edit in edits]
    products = context.adapter.hessian_products(context.model, context.traced, sites, data.loss)
    shapes = [context.graph.shape_of(site) for site in sites]
    rounds = progress(range(settings.iterations), settings.iterations, "second derivatives", lambda _: 1)
    try:
        traces = mean_traces(products, shapes, batches, settings.tolerance, rounds)
    except Exception as error:
        raise ConfigError(
            f"{json_path}: the second derivatives of the loss cannot be computed on the registered data: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not np.isfinite(traces).all():
        raise ConfigError(
            f"{json_path}: the second derivatives of the loss are not finite: check the data and the model's weights"
        )
    return traces


def _first_batches(
    data: QuantizationPrecisionInitArgs, points: int, context: PlanningContext, json_path: str
) -> list[tuple[tuple[Any, Any], int]]:
    """As many batches as `points` fill, at least one, each with its number of samples."""
    batches = iter(data.batches())
    first = next(batches, None)
    if first is None:
        raise ConfigError(f"{json_path}: the data loader gave no batch")
    size = context.adapter.data.samples(first[0])
    kept = [first, *itertools.islice(batches, max(points // size, 1) - 1)]
    return [(batch, context.adapter.data.samples(batch[0])) for batch in kept]


def _perturbations(
    choices: Choices, with_bits: Callable[[Mapping[str, int]], Plan], context: PlanningContext
) -> dict[str, dict[int, float]]:
    """|Q(W) - W|^2 of each weight at each number of bits that it may have, on the grid that it would start with."""
    found: dict[str, dict[int, float]] = {key: {} for key in choices.weights}
    for bits in sorted({bits for key in choices.weights for bits in choices.options[key]}):
        for edit in with_bits({key: bits for key in choices.weights if bits in choices.options[key]}):
            if edit.key not in found or bits not in choices.options[edit.key]:
                continue
            weight = context.adapter.parameter(context.model, context.traced, edit.site)
            transform, variables = edit.transform.calibrate(weight.shape, context.ranges.get(edit.key))
            values = {name: var.value for name, var in variables.items()}
            rounded = transform.apply(numpy_xp, weight, values, False)
            found[edit.key][bits] = float(np.sum(np.square(rounded - weight, dtype=np.float64)))
    return found
