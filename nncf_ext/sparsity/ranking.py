"""LeGR: a search for what makes importances of filters in different layers comparable (Chin et al. 2020, arXiv:1904.12368)."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from nncf_ext.config.filter_pruning import LegrParams
from nncf_ext.config.section import Number
from nncf_ext.errors import ConfigError, nearest
from nncf_ext.files.json_text import refused_as, value_in
from nncf_ext.files.schema import expect
from nncf_ext.files.writing import write_text
from nncf_ext.report import progress
from nncf_ext.scopes import unwrapped

_COEFFICIENTS = TypeAdapter(dict[str, tuple[Number, Number]])
Coefficients = Mapping[str, tuple[float, float]]  # layer -> (scale, shift): filters are ranked by scale * importance + shift


def learn_ranking(spreads: Mapping[str, float], settings: LegrParams, loss_of: Callable[[Coefficients], float]) -> Coefficients:
    """The coefficients with the smallest `loss_of` among `settings.generations` that are tried.

    spreads: by layer, the standard deviation of its filters' importances. Regularized evolution (section 3.2 of the paper): a
    population is filled with the ranking as it is and random ones, scale = exp(N(0, sigma)) and shift = N(0, spread). Then the
    best of a few drawn from it is the parent of the next, which replaces the oldest; in some layers it has a factor on the scale
    and a summand on the shift of the same kinds, whose deviations shrink to a fifth until the end.
    """
    rng = np.random.default_rng(settings.random_seed)
    layers = list(spreads)
    mutated = max(1, int(settings.mutate_percent * len(layers))) if settings.mutate_percent else 0
    population: deque[tuple[float, dict[str, tuple[float, float]]]] = deque(maxlen=settings.population_size)

    def drawn(layer: str, step: float) -> tuple[float, float]:
        return math.exp(rng.normal(0, step * settings.scale_sigma)), float(rng.normal(0, step * spreads[layer]))

    def proposal(trial: int) -> dict[str, tuple[float, float]]:
        if trial == 0:
            return dict.fromkeys(layers, (1.0, 0.0))
        if trial < settings.population_size:
            return {layer: drawn(layer, 1.0) for layer in layers}
        seen = rng.choice(len(population), min(settings.num_samples, len(population)), replace=False)
        child = dict(population[min(seen, key=lambda index: population[index][0])][1])
        for index in rng.choice(len(layers), mutated, replace=False):
            layer = layers[index]
            (scale, shift), (factor, summand) = child[layer], drawn(layer, 1 - trial / (1.25 * settings.generations))
            child[layer] = (scale * factor, shift + summand)
        return child

    best, smallest = proposal(0), math.inf
    for trial in progress(range(settings.generations), settings.generations, "learned ranking", lambda trial: 1):
        coefficients = proposal(trial)
        loss = float(loss_of(coefficients))
        loss = math.inf if math.isnan(loss) else loss  # it diverged
        population.append((loss, coefficients))
        if loss < smallest:
            best, smallest = coefficients, loss
    return best


class TrialController:
    """What the user's training function gets as its controller during the search: no schedule moves, no loss is added."""

    def __init__(self, zero: Any):
        self._zero = zero
        self.scheduler = self

    def loss(self) -> Any:
        return self._zero

    def epoch_step(self, next_epoch: int | None = None) -> None:
        pass

    def step(self, next_step: int | None = None) -> None:
        pass


def save_coefficients(path: Path, coefficients: Coefficients) -> None:
    write_text(path, json.dumps({layer: list(pair) for layer, pair in coefficients.items()}, indent=2) + "\n")


def load_coefficients(path: Path, layers: list[str], json_path: str) -> Coefficients:
    """What `save_coefficients`, or NNCF 2.x, wrote for `layers`. ConfigError, which begins with `json_path`, where it did not."""
    try:
        with refused_as(
            ConfigError, f"{json_path}: {str(path)!r} holds no coefficients, expected a [scale, shift] for each layer"
        ):
            found = expect(_COEFFICIENTS, value_in(path))
        coefficients = {unwrapped(layer): (scale, shift) for layer, (scale, shift) in found.items()}
    except OSError as error:
        raise ConfigError(f"{json_path}: {str(path)!r} cannot be read: {error.strerror}") from None
    for layer in layers:
        if layer not in coefficients:
            close = nearest(layer, coefficients)
            raise ConfigError(f"{json_path}: {str(path)!r} has none for {layer}{f', the nearest is {close}' if close else ''}")
    return {layer: coefficients[layer] for layer in layers}
