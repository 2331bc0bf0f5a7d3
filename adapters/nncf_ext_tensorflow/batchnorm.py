"""Re-estimating BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def adapt_batchnorm(model: Any, batch_norms: Sequence[Any], batches: Iterable[Any]) -> None:
    """Give every BatchNorm of `model` the mean of its batch statistics over `batches` (model inputs), all else in inference mode.

    Frozen layers (`trainable` False) keep their statistics. Without a batch, and on an error, nothing changes.
    """
    layers = [layer for layer in batch_norms if layer.trainable]
    classes, momenta = [type(layer) for layer in layers], [layer.momentum for layer in layers]
    before = [(v, v.numpy()) for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    try:
        for layer in layers:
            object.__setattr__(layer, "__class__", _in_training(type(layer)))
        for index, batch in enumerate(batches if layers else ()):
            for layer in layers:
                layer.momentum = index / (index + 1)  # a running mean; the first batch replaces the old statistics
            model(batch, training=False)
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise
    finally:
        for layer, cls, momentum in zip(layers, classes, momenta, strict=True):
            object.__setattr__(layer, "__class__", cls)
            layer.momentum = momentum


def _in_training(cls: Any) -> type:
    class InTraining(cls):
        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            return super().call(inputs, training=True, mask=mask)

    return InTraining
