"""The gradient of a loss by all weights, for what searches among weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.inference import run
from nncf_ext_torch.trace import evaluating


def loss_gradients(
    model: nn.Module, loss: Callable[[Any, Any], torch.Tensor], batch: tuple[Any, Any], factor: float
) -> tuple[float, float, dict[str, torch.Tensor]]:
    """See `nncf_ext.adapter.Adapter.loss_gradients`; weights that the loss does not depend on are left out."""
    inputs, target = batch
    # of a shared parameter the last name: whoever loads all names in turn leaves that one's value in it
    last = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
    weights = {last[id(parameter)]: parameter for parameter in model.parameters() if parameter.requires_grad}
    with evaluating(model), torch.enable_grad():
        outputs = run(model, inputs)
        scale = torch.tensor(float(factor), requires_grad=True)
        if isinstance(outputs, torch.Tensor):
            outputs = outputs * scale.to(outputs)
        value = loss(outputs, target)
        by_factor, *gradients = torch.autograd.grad(value, [scale, *weights.values()], allow_unused=True)
    found = {name: gradient for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
    return float(value.detach()), 0.0 if by_factor is None else float(by_factor), found
