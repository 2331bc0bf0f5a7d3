"""Re-estimation of BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nncf_ext_torch.observe import run
from nncf_ext_torch.trace import evaluating


def adapt_batchnorm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set every BatchNorm's running mean and variance to the plain average over `batches`; everything else runs in eval mode.

    Without a batch, and on an error, the statistics stay as they were. Modes, momentum and batch counters stay in any case.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.running_mean is not None]
    before = [{name: tensor.clone() for name, tensor in layer.named_buffers(recurse=False)} for layer in layers]
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
