"""BatchNorm as in training, and re-estimation of its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any


def adapt_batchnorm(model: Any, batch_norms: Sequence[Any], batches: Iterable[Any]) -> None:
    """Give every BatchNorm of `model` the mean of its batch statistics over `batches` (model inputs), all else in inference mode.

    Frozen layers (`trainable` False) keep their statistics. Without a batch, and on an error, nothing changes.
    """
    layers = _tracking(batch_norms)
    before = _statistics(layers)
    with _in_training(layers):
        try:
            for index, batch in enumerate(batches if layers else ()):
                for layer in layers:
                    layer.momentum = index / (index + 1)  # a running mean; the first batch replaces the old statistics
                model(batch, training=False)
        except BaseException:
            _assign(before)
            raise


@contextmanager
def batch_statistics(batch_norms: Sequence[Any]) -> Iterator[int]:
    """See `Adapter.batch_statistics`."""
    layers = _tracking(batch_norms)
    before = _statistics(layers)
    with _in_training(layers):
        try:
            yield len(layers)
        finally:
            _assign(before)


def _tracking(batch_norms: Sequence[Any]) -> list[Any]:
    """The layers that training gives statistics."""
    return [layer for layer in batch_norms if layer.trainable]


def _statistics(layers: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(v, v.numpy()) for layer in layers for v in (layer.moving_mean, layer.moving_variance)]


def _assign(values: Sequence[tuple[Any, Any]]) -> None:
    for variable, value in values:
        variable.assign(value)


@contextmanager
def _in_training(layers: Sequence[Any]) -> Iterator[None]:
    """These layers in training mode, whatever the model is in. Momenta are afterwards what they were."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            vars(layer)["call"] = partial(_call_in_training, layer)
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            vars(layer).pop("call", None)
            layer.momentum = momentum


def _call_in_training(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    return type(layer).call(layer, inputs, training=True, mask=mask)  # of the class it has now: a patch may change it meanwhile
