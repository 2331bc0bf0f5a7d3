"""BatchNorm as in training, and re-estimation of its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.inference import run
from nncf_ext_torch.torch_private import BatchNorm
from nncf_ext_torch.trace import evaluating


def adapt_batchnorm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set every BatchNorm's running mean and variance to the plain average over `batches`; everything else runs in eval mode.

    Without a batch, and on an error, the statistics stay as they were. Modes, momentum and batch counters stay in any case.
    """
    layers = _tracking(model)
    before = _buffers(layers)
    momenta = [layer.momentum for layer in layers]
    adapted = False
    with evaluating(model), torch.no_grad():
        try:
            for layer in layers:
                layer.training = True
                layer.momentum = None  # a cumulative average
                layer.reset_running_stats()
            for inputs in batches if layers else ():
                run(model, inputs)
                adapted = True
        except BaseException:
            adapted = False
            raise
        finally:
            for layer, momentum, buffers in zip(layers, momenta, before, strict=True):
                layer.momentum = momentum
                for name, tensor in buffers.items():
                    if not adapted or name == "num_batches_tracked":
                        layer.get_buffer(name).copy_(tensor)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[int]:
    """See `Adapter.batch_statistics`. One value per channel, which has no variance, is normalised as in inference."""
    layers = _tracking(model)
    modes, before = [layer.training for layer in layers], _buffers(layers)

    def as_in_training(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        layer.training = inputs[0].numel() > inputs[0].shape[1]

    hooks = [layer.register_forward_pre_hook(as_in_training) for layer in layers]
    try:
        yield len(layers)
    finally:
        for layer, hook, training, buffers in zip(layers, hooks, modes, before, strict=True):
            hook.remove()
            layer.training = training
            for name, tensor in buffers.items():
                layer.get_buffer(name).copy_(tensor)


def _tracking(model: nn.Module) -> list[BatchNorm]:
    """The layers that training gives statistics: not those that are in inference mode while the model around them is not."""
    found = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats and m.running_mean is not None]
    return [layer for layer in found if layer.training or not model.training]


def _buffers(layers: list[BatchNorm]) -> list[dict[str, torch.Tensor]]:
    return [{name: tensor.clone() for name, tensor in layer.named_buffers(recurse=False)} for layer in layers]
