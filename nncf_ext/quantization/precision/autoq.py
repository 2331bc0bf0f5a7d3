"""AutoQ: bits by trial. Models are compressed, scored by the user's function and dropped; a sampler learns which bits score well.

Constraint and reward are NNCF 2.x's. Its agent (DDPG) is replaced by a tree-structured Parzen estimator (Bergstra et al. 2011),
which needs fewer trials and no tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nncf_ext.calibration.trials import scorer, search
from nncf_ext.config.precision import PrecisionInit
from nncf_ext.edits import Plan
from nncf_ext.errors import ConfigError
from nncf_ext.quantization.precision.assignment import Choices
from nncf_ext.quantization.precision.dump import can_draw, draw_autoq, write
from nncf_ext.report import progress

if TYPE_CHECKING:
    from nncf_ext.algorithm import PlanningContext

FLOAT_BITS = 32


def autoq(
    settings: PrecisionInit,
    choices: Choices,
    with_bits: Callable[[Mapping[str, int]], Plan],
    context: PlanningContext,
    json_path: str,
) -> dict[str, int]:
    """Edit key -> bits, of weights and of the activations that meet them."""
    if settings.dump_init_precision_data:
        can_draw(json_path)
    score = scorer(context, settings.eval_subset_ratio, json_path, "autoq")
    order = [edit.key for edit in with_bits({}) if edit.key in choices.uses]
    sizes = {key: math.prod(context.graph.shape_of(edit.site)) for edit in with_bits({}) if (key := edit.key) in choices.uses}
    options = {key: choices.options[key] for key in order}
    smallest = size_ratio({key: options[key][0] for key in order}, sizes)
    if settings.ratio < smallest * (1 - 1e-9):
        raise ConfigError(
            f"{json_path}.compression_ratio: found {settings.ratio:g}, expected at least {smallest:.4g}, "
            "which is the model with the "
            "fewest bits everywhere"
        )
    with context.adapter.preserving_state(context.model):
        float_score = score(context.model)
    unit = 10 ** -math.floor(math.log10(abs(float_score))) if float_score else 1
    known: dict[tuple[int, ...], float] = {}
    trials: list[dict[str, Any]] = []

    def reward(proposed: Mapping[str, int]) -> float:
        bits = within_size(proposed, options, sizes, settings.ratio)
        choice = tuple(bits.values())
        if choice not in known:
            with context.trial(with_bits(choices.with_activations(bits))) as model:
                known[choice] = score(model)
            trials.append({"score": known[choice], "size_ratio": size_ratio(bits, sizes), "bits": bits})
        return known[choice] * unit

    rounds = progress(range(settings.iterations), settings.iterations, "models tried", lambda _: 1)
    search(reward, options, {key: choice[-1] for key, choice in options.items()}, rounds, settings.warmup_iter_number)
    best = max(trials, key=lambda trial: trial["score"])
    bits = choices.with_activations(best["bits"])
    if settings.dump_init_precision_data:
        found = {
            "float_score": float_score,
            "score": best["score"],
            "size_ratio": best["size_ratio"],
            "bitwidth_per_scope": [[bits[edit.key], edit.key.rpartition("|")[0]] for edit in with_bits(bits) if edit.key in bits],
            "trials": trials,
        }
        write(context.log_dir, "autoq", found, draw_autoq, json_path)
    return bits


def size_ratio(bits: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Bits of the quantized weights over those that they take as 32-bit floats."""
    return sum(bits[key] * size for key, size in sizes.items()) / (FLOAT_BITS * sum(sizes.values()))


def within_size(
    bits: Mapping[str, int], options: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], ratio: float
) -> dict[str, int]:
    """`bits`, lowered from the last weight to the first, one option at a time and again from the last, until they fit `ratio`.

    The fewest of all fit.
    """
    bits = dict(bits)
    keys = list(options)[::-1]
    while size_ratio(bits, sizes) > ratio * (1 + 1e-9):
        for key in keys:
            fewer = [other for other in options[key] if other < bits[key]]
            if fewer:
                bits[key] = fewer[-1]
                if size_ratio(bits, sizes) <= ratio * (1 + 1e-9):
                    break
    return bits
