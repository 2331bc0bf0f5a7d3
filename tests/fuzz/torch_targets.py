"""What damaged checkpoints and states do to a controller in PyTorch. Not in one process with TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from tests.fuzz.controllers import Framework, config, targets

_X = torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 5))


def _create(compression: Sequence[Mapping[str, Any]], state: Any) -> tuple[Any, Any]:
    ours = register_default_init_args(config(compression, [1, 3, 6, 6]), [(_X, _X)])
    return create_compressed_model(_net(), ours, compression_state=state)


def _step(controller: Any, model: Any) -> None:
    model.train()
    (model(_X).sum() + controller.loss()).backward()


def _tensors(model: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def _load(model: Any, tensors: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(torch.as_tensor(tensors[name]))


TARGETS = targets(Framework(_create, _step, _tensors, _load))
