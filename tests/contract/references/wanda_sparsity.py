from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.data import data
from tests.contract.references.reference import AlgorithmReference, masked

_READ = {"fc1.weight": "input", "fc2.weight": "relu"}


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    """Sun et al. 2023, eq. 1 and algorithm 1: sort each output's scores, and zero the smallest."""
    if step is not None or epoch > algorithm.params.sparsity_freeze_epoch:
        return
    squares: dict[str, Any] = dict.fromkeys(_READ, 0.0)
    for batch in range(2):
        net.forward(data(batch)[0], False)
        for role, read in _READ.items():
            squares[role] = squares[role] + np.square(net.transformed[read].astype(np.float64)).sum(0)
    level = algorithm.sparsity_init if epoch < 0 else algorithm.level(epoch)
    for role, square in squares.items():
        norm = np.sqrt(square).astype(np.float32)
        score = np.abs(net.weights[role]) * norm[:, None]
        order = np.argsort(-score, axis=0, kind="stable")
        mask = np.ones(score.shape, bool)
        gone = round(level * len(score))
        np.put_along_axis(mask, order[len(score) - gone :], False, axis=0)
        net.variables[role, "wanda_mask"] = {"mask": mask, "norm": norm}


def _vjp(transform: Any, x: Any, variables: Any, g: Any) -> Any:
    return g * variables["mask"], {}


def _in_layout(transform: Any, role: str, transposed: bool) -> Any:
    return transform.model_copy(update={"input_axis": 0, "output_axis": 1})


REFERENCE = AlgorithmReference(
    begins=_begins, forwards={"wanda_mask": masked}, vjps={"wanda_mask": _vjp}, in_layout={"wanda_mask": _in_layout}
)
