"""A PyTorch model as a subject of the zoo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn

from benchmarks.zoo.row import OUTPUTS
from nncf_ext import NNCFConfig


def tensors_in(value: Any) -> list[Tensor]:
    """Floating-point tensors in nested outputs."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def mean_square(outputs: Any) -> Tensor:
    """A loss for any outputs."""
    return torch.stack([tensor.float().pow(2).mean() for tensor in tensors_in(outputs)]).mean()


@dataclass
class TorchSubject:
    """args, kwargs: a batch. loss(model) runs a training forward; the mean square of the outputs where None.

    BatchNorm has the batch's statistics, as it would have after any training: with those of a new layer signals vanish on the way
    through a deep network, and all that is compared is how rounding errors grow.
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    loss: Callable[[nn.Module], Tensor] | None = None
    varying: bool = False
    distilled: Mapping[str, Any] = field(default_factory=lambda: OUTPUTS)

    def __post_init__(self) -> None:
        normalizing = [
            m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
        ]
        momenta = [layer.momentum for layer in normalizing]
        for layer in normalizing:
            layer.momentum = 1.0
        with torch.no_grad():
            self._loss(self.model.train())
        for layer, momentum in zip(normalizing, momenta, strict=True):
            layer.momentum = momentum

    def weights(self, model: nn.Module) -> int:
        return sum(p.numel() for name, p in model.named_parameters() if "nncf_ext" not in name)

    def fresh(self) -> nn.Module:
        return copy.deepcopy(self.model)

    def compress(self, model: nn.Module, algorithms: Sequence[Mapping[str, Any]], state: Any = None) -> tuple[Any, nn.Module]:
        batch = dict(self.kwargs) if self.kwargs else (self.args, None)
        config = NNCFConfig.from_dict({"compression": [dict(algorithm) for algorithm in algorithms]})
        return create_compressed_model(model, register_default_init_args(config, [batch]), compression_state=state)

    def outputs(self, model: nn.Module) -> list[np.ndarray]:
        training = model.training
        with torch.no_grad():
            outputs = model.eval()(*self.args, **(self.kwargs or {}))
        model.train(training)
        return [tensor.float().numpy() for tensor in tensors_in(outputs)]

    def train(self, controller: Any, model: nn.Module, steps: int) -> tuple[list[float], set[str]]:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        losses, reached = [], set()
        controller.scheduler.epoch_step()
        for _ in range(steps):
            controller.scheduler.step()
            optimizer.zero_grad()
            loss = controller.total_loss(self._loss(model.train()))
            loss.backward()
            reached = _reached(model)
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses, reached

    def trained_float(self) -> set[str]:
        model = self.fresh().train()
        self._loss(model).backward()
        return _reached(model)

    def export_float(self, path: Path) -> None:
        torch.onnx.export(self.fresh().eval(), self.args, path, kwargs=dict(self.kwargs or {}), dynamo=True, verbose=False)

    def _loss(self, model: nn.Module) -> Tensor:
        return self.loss(model) if self.loss is not None else mean_square(model(*self.args, **(self.kwargs or {})))


def _reached(model: nn.Module) -> set[str]:
    """ValueError where a gradient is not finite."""
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and "nncf_ext" not in name}
    broken = [name for name, gradient in named.items() if not torch.isfinite(gradient).all()]
    if broken:
        raise ValueError(f"the gradient of {broken[0]} is not finite ({len(broken)} of them)")
    return set(named)
