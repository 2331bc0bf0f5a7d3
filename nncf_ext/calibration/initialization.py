"""The data that a config may carry (NNCF 2.x's "extra structs"): what ranges and BatchNorm statistics are initialised from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncf_ext.adapter import Adapter
from nncf_ext.config.initialization import BatchnormAdaptation, RangeInit
from nncf_ext.data import Batches, ModelInputs
from nncf_ext.errors import ConfigError
from nncf_ext.files.finite import not_finite
from nncf_ext.report import progress


class InitializationWarning(UserWarning):
    """What is initialised before training starts from something that may not have been meant."""


@dataclass(frozen=True)
class QuantizationRangeInitArgs:
    """Batches for range initialisation, as model inputs; `batches()` starts anew at every call."""

    batches: Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class BNAdaptationInitArgs:
    """Batches for BatchNorm adaptation, as model inputs; `batches()` starts anew at every call."""

    batches: Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class LeGRInitArgs:
    """The user's training and validation, for the search for a ranking of filters.

    train(model, controller, steps): train for some optimizer steps, with a fresh optimizer. validate(model): the loss on other
    data, the smaller the better. Both leave no gradients, and the model in the mode that it was in.
    """

    train: Callable[[Any, Any, int], None]
    validate: Callable[[Any], float]


@dataclass(frozen=True)
class QuantizationPrecisionInitArgs:
    """Labelled data and the task's loss, for a choice of bits by second derivatives.

    batches() starts anew at every call and yields (model inputs, target) of few samples each (`micro_batches`), as every product
    with a Hessian takes one of them; loss(outputs, target) is a scalar of the framework, the mean over the samples.
    """

    batches: Callable[[], Iterable[tuple[Any, Any]]]
    loss: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class AutoQPrecisionInitArgs:
    """The user's evaluation, for a choice of bits by trial: eval_fn(model, loader) is a score, the higher the better."""

    eval_fn: Callable[[Any, Any], float]
    loader: Any


def loss_in(result: Any) -> float:
    """The loss in what a validation function of NNCF 2.x returns: (accuracy, loss), the last of several; or the loss alone."""
    return float(result[-1] if isinstance(result, tuple | list) else result)


def for_model(extras: Mapping[str, Any], expected: ModelInputs) -> dict[str, Any]:
    """The registered data as batches for a model that is called with `expected`."""
    found = dict(extras)
    for name, args in extras.items():
        if isinstance(getattr(args, "batches", None), Batches):
            found[name] = copy.copy(args)
            object.__setattr__(found[name], "batches", args.batches.of(expected))
    return found


def micro_batches(batch: Any, samples: int, size: int = 2) -> Iterator[Any]:
    """A batch of `samples` in pieces of `size`, the last one smaller: nested tuples, lists and mappings of arrays.

    Arrays are cut along their first axis where that has the samples; so are lists with something else than such an array for
    every sample (boxes, say). The rest goes into every piece.
    """
    for start in range(0, samples, size):
        yield _cut(batch, samples, slice(start, start + size))


def _cut(value: Any, samples: int, part: slice) -> Any:
    if isinstance(value, Mapping):
        return {key: _cut(item, samples, part) for key, item in value.items()}
    if isinstance(value, tuple | list):
        if isinstance(value, list) and len(value) == samples and not all(_has_samples(item, samples) for item in value):
            return value[part]
        return type(value)(_cut(item, samples, part) for item in value)
    return value[part] if _has_samples(value, samples) else value


def _has_samples(value: Any, samples: int) -> bool:
    return bool(getattr(value, "shape", ())) and value.shape[0] == samples


def take_samples(batches: Iterable[Any], wanted: int, size_of: Callable[[Any], int]) -> Iterator[Any]:
    """Batches until they hold `wanted` samples."""
    seen = 0
    for batch in batches:
        if seen >= wanted:
            return
        seen += size_of(batch)
        yield batch


def batchnorm_settings(algorithms: Sequence[Any]) -> list[BatchnormAdaptation]:
    """What the algorithms' configs say of re-estimating BatchNorm statistics."""
    found = [getattr(getattr(a, "initializer", None), "batchnorm_adaptation", None) for a in algorithms]
    return [settings for settings in found if settings is not None]


def check_registered(algorithm: Any, starts: Mapping[str, RangeInit], extras: Mapping[str, Any]) -> None:
    """ConfigError where the algorithm's config asks for an initialisation whose data nobody registered. Where it does not ask,
    and ranges start at 1 for want of data, an InitializationWarning. starts: how those of its activations start, by edit key."""
    initializer = getattr(algorithm, "initializer", None)
    if initializer is None:
        return
    asked, advice = initializer.model_fields_set, "register_default_init_args(config, data loader) before"
    adaptation = initializer.batchnorm_adaptation
    if "batchnorm_adaptation" in asked and adaptation.amount and BNAdaptationInitArgs.__name__ not in extras:
        raise ConfigError(
            f"{algorithm.json_path}.initializer.batchnorm_adaptation: found no data to run {adaptation.amount} of, "
            f"expected {advice} (or num_bn_adaptation_samples 0)"
        )
    missing = {key: start for key, start in starts.items() if start.amount}
    if not missing or QuantizationRangeInitArgs.__name__ in extras:
        return
    for key, start in missing.items():
        if "range" in asked or start is not initializer.range:
            raise ConfigError(
                f"{algorithm.json_path}.initializer.range: found no data to run {start.amount} of for {key.partition('|')[0]}, "
                f"expected {advice} (or num_init_samples 0)"
            )
    warnings.warn(
        f"{algorithm.json_path}: no data are registered, so the ranges of {len(missing)} activations start at 1, whatever passes "
        f"there: {advice}, or num_init_samples 0 where training may find them",
        InitializationWarning,
        stacklevel=2,
    )


def adapt_batchnorm(adapter: Adapter, model: Any, algorithms: Sequence[Any], extras: Mapping[str, Any]) -> None:
    """Re-estimate the BatchNorm statistics on as many of the registered samples as the algorithms' configs ask for."""
    data = extras.get(BNAdaptationInitArgs.__name__)
    if data is None:
        return
    wanted = samples_wanted(adapter, data.batches, batchnorm_settings(algorithms), "batch-norm adaptation")
    if any(wanted):
        before = {name: np.array(value) for name, value in adapter.tensors(model).items()}
        with running_on_data("batch-norm adaptation", data.batches):
            adapter.adapt_batchnorm(model, samples_with_progress(adapter, data.batches, max(wanted), "batch-norm adaptation"))
        for name, value in adapter.tensors(model).items():
            problem = not_finite(value)
            if problem and not not_finite(before[name]):
                adapter.load_tensors(model, before)
                raise ConfigError(
                    f"batch-norm adaptation: {name}: {problem}: check the data for NaN and infinite values, and the model on them"
                )


def samples_wanted(
    adapter: Adapter, batches: Callable[[], Iterable[Any]], settings: Sequence[RangeInit | BatchnormAdaptation], what: str
) -> list[int]:
    """How many samples each of `settings` asks for; a number of batches stands for so many as the first one is large."""
    size = 1
    if any(s.counts_batches for s in settings):
        with running_on_data(what, batches):
            size = next((adapter.data.samples(batch) for batch in batches()), 1)
    return [s.samples(size) for s in settings]


@contextmanager
def running_on_data(what: str, batches: Any = None) -> Iterator[None]:
    """A failure inside is that of the model on the user's `batches`, and is told as such, with what was given and expected."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        seen = batches.last_seen() if isinstance(batches, Batches) else ""
        raise ConfigError(f"{what}: the model does not run on the data loader's inputs{seen}: {error}") from error


def samples_with_progress(adapter: Adapter, batches: Callable[[], Iterable[Any]], wanted: int, what: str) -> Iterable[Any]:
    return progress(take_samples(batches(), wanted, adapter.data.samples), wanted, what, adapter.data.samples)
