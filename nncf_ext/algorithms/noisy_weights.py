"""Noise on weights: the variable that says which a weight gets, and a step's draw of it (see `nncf_ext.noise`)."""

from __future__ import annotations

import math

import numpy as np

from nncf_ext import noise
from nncf_ext.algorithm import Training
from nncf_ext.edits import Var


def rows_for(shape: tuple[int, ...]) -> dict[str, Var]:
    """The variable `rows` of a weight of `shape`."""
    return {"rows": Var(np.zeros(noise.rows_of(math.prod(shape)), np.int32))}


def draw_noise(training: Training, step: int) -> None:
    """Give the transforms that have noise that of the optimizer step with this number."""
    noisy = [edit for edit in training.edits if "rows" in training.attached.variables(edit)]
    sizes = [math.prod(training.graph.shape_of(edit.site)) for edit in noisy]
    for edit, rows in zip(noisy, noise.draw(step, sizes) if noisy else (), strict=True):
        training.attached.assign(edit, "rows", rows)
