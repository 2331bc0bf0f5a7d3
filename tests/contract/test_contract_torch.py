"""The contract on the PyTorch adapter."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.adapter import TorchAdapter
from nncf_ext_torch.trace import ExampleInput
from torch import nn

from nncf_ext import NNCFConfig
from tests.contract.rows import ContractTests


class Net(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.relu(self.fc1(x)))


class TorchDriver:
    def build(self, weights: dict[str, np.ndarray]) -> nn.Module:
        model = Net(len(weights["fc1.bias"]))
        model.load_state_dict({name: torch.from_numpy(value.T.copy()) for name, value in weights.items()})
        return model

    def compress(self, model: nn.Module, config: NNCFConfig, batches: Any, state: Any = None) -> Any:
        if batches is not None:
            register_default_init_args(config, [(torch.from_numpy(x), None) for x in batches])
        return create_compressed_model(model, config, copy.deepcopy(state))[0]

    def compress_labelled(self, model: nn.Module, config: NNCFConfig, pairs: Any, **functions: Any) -> Any:
        batches = [self.labelled(*pair) for pair in pairs]
        register_default_init_args(config, batches, **{"criterion": nn.MSELoss(), **functions})
        return create_compressed_model(model, config)[0]

    def traced(self, model: nn.Module) -> tuple[Any, Any]:
        adapter = TorchAdapter()
        return adapter, adapter.trace(model, ExampleInput((torch.zeros(8, 6),)))

    def labelled(self, x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(x), torch.from_numpy(y)

    def mean_squared_error(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs, target)

    def outputs(self, model: nn.Module, x: np.ndarray, training: bool) -> np.ndarray:
        with torch.no_grad():
            return model.train(training)(torch.from_numpy(x)).numpy()

    def train_step(self, controller: Any, x: np.ndarray, y: np.ndarray, rate: float) -> float:
        model = controller.model.train()
        optimizer = torch.optim.SGD(model.parameters(), rate)
        loss = controller.total_loss(nn.functional.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(y)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def weights(self, model: nn.Module) -> dict[str, np.ndarray]:
        named = dict(model.named_parameters())
        return {name: named[name].detach().numpy().T.copy() for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}

    def to_reference(self, role: str, array: np.ndarray) -> np.ndarray:
        return array.T


class TestPyTorch(ContractTests):
    driver = TorchDriver()
