"""What an error in each weight counts: the diagonal of the loss's Hessian, by one of several estimates.

Only its proportions matter, so the mean over all weights that are not zero is made 1. To that a tenth is added: the estimates
have many numbers near zero, which says that small errors there cost nothing, and with few bits errors are not small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nncf_ext.calibration.initialization import QuantizationPrecisionInitArgs, running_on_data, samples_with_progress
from nncf_ext.errors import ConfigError

if TYPE_CHECKING:
    from nncf_ext.algorithm import Training

_ADDED = 0.1


def hessian_weights(training: Training, weights: Sequence[np.ndarray], by: str, samples: int, json_path: str) -> list[np.ndarray]:
    """One array for each of the algorithm's edits, of the shape of its weight. weights: as they reach the edits.

    by: `none`, `squared_gradients`, `hutchinson` or `adam`. ConfigError where what it needs is not there.
    """
    if by == "none" or not weights:
        return [np.ones(weight.shape) for weight in weights]
    parameters = (training.graph.parameter_at(edit.site) for edit in training.edits)
    made = next((parameter for parameter in parameters if parameter.made_by), None)
    if made is not None and by in ("adam", "squared_gradients"):
        raise ConfigError(
            f"{json_path}.params.weighting: {by!r} needs gradients of the weights, and {made.name} is computed "
            "from other parameters "
            f"({made.made_by}): expected 'hutchinson', 'none', or ignored_scopes for it"
        )
    if by == "adam":
        found = _second_moments(training, json_path)
    else:
        data: QuantizationPrecisionInitArgs | None = training.extra(QuantizationPrecisionInitArgs)
        if data is None:
            raise ConfigError(
                f"{json_path}.params.weighting: {by!r} needs labelled data and a loss: "
                "give register_default_init_args a criterion"
            )
        with running_on_data("weighting by the Hessian", data.batches):
            batches = _batches(training, data, samples)
            found = (_squared_gradients if by == "squared_gradients" else _diagonal)(training, data.loss, batches, weights)
    whole = sum(float(h[w != 0].sum()) for h, w in zip(found, weights, strict=True))
    count = sum(int(np.count_nonzero(w)) for w in weights)
    if not (np.isfinite(whole) and whole > 0):
        return [np.ones(weight.shape) for weight in weights]
    return [h * (count / whole) + _ADDED for h in found]


def _second_moments(training: Training, json_path: str) -> list[np.ndarray]:
    found = []
    for edit in training.edits:
        moment = training.attached.optimizer_hook.second_moment(edit.site)
        if moment is None:
            raise ConfigError(
                f"{json_path}.params.weighting: found no optimizer that keeps second moments of {edit.site}, expected Adam or a "
                "relative of it, or the weighting 'squared_gradients'"
            )
        found.append(np.sqrt(training.adapter.to_numpy(moment)).astype(np.float64))
    return found


def _batches(training: Training, data: QuantizationPrecisionInitArgs, samples: int) -> Iterator[tuple[Any, Any]]:
    return iter(samples_with_progress(training.adapter, data.batches, samples, "weights by the Hessian"))


def _squared_gradients(
    training: Training, loss: Any, batches: Iterator[tuple[Any, Any]], weights: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Mean of the squared gradients: the diagonal of the empirical Fisher matrix where a batch is one sample. A batch of n has,
    near a minimum, 1/n of it."""
    total = [np.zeros(weight.shape) for weight in weights]
    names = [set(training.attached.parameter_names(edit)) for edit in training.edits]
    for batch in batches:
        _, _, gradients = training.adapter.loss_gradients(training.attached.model, loss, batch, 1.0)
        size = training.adapter.data.samples(batch[0])
        for own, of_edit in zip(total, names, strict=True):
            for name in of_edit & gradients.keys():
                own += size * np.square(gradients[name], dtype=np.float64)
    return total


def _diagonal(
    training: Training, loss: Any, batches: Iterator[tuple[Any, Any]], weights: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Hutchinson's estimate E[v * (H v)] of the diagonal, for v of random signs, where it is positive (Bekas et al. 2007)."""
    model, traced = training.plain()
    products = training.adapter.hessian_products(model, traced, [edit.site for edit in training.edits], loss)
    rng, total = np.random.default_rng(0), [np.zeros(weight.shape) for weight in weights]
    for batch in batches:
        signs = [rng.integers(0, 2, weight.shape, np.int8) * 2 - 1 for weight in weights]
        size = training.adapter.data.samples(batch[0])
        for own, sign, product in zip(total, signs, products(batch, signs), strict=True):
            own += size * sign * product
    return [np.maximum(own, 0) for own in total]
