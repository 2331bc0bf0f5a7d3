"""Products of a loss' Hessian with vectors, by differentiating twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nncf_ext_torch.inference import run
from nncf_ext_torch.trace import evaluating


def hessian_products(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Any, Any], torch.Tensor],
    batch: tuple[Any, Any],
    directions: Sequence[np.ndarray],
) -> list[torch.Tensor]:
    """H v by parameter, see `nncf_ext.adapter.Adapter.hessian_products`. Frozen parameters are differentiated by like others."""
    inputs, target = batch
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with evaluating(model), torch.enable_grad(), _twice_differentiable(model):
            value = loss(run(model, inputs), target)
            gradients = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
            vectors = [torch.as_tensor(d, dtype=p.dtype, device=p.device) for d, p in zip(directions, parameters, strict=True)]
            bent = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and g.requires_grad]
            if not bent:  # the loss is linear in all of them
                return [torch.zeros_like(parameter) for parameter in parameters]
            products = torch.autograd.grad([g for g, _ in bent], parameters, [v for _, v in bent], allow_unused=True)
        return [torch.zeros_like(p) if hv is None else hv for hv, p in zip(products, parameters, strict=True)]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Fused attention and cuDNN's recurrent layers have no second derivative: they run as plain operators."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent):
        yield
