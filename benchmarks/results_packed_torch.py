"""The PyTorch rows of `results_packed.py`, in a process of their own: `python -m benchmarks.results_packed_torch SEED PART`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.demo import DigitsNet
from safetensors.torch import save_file
from torch import nn

from benchmarks import networks_torch, tasks
from benchmarks.contest import report_result
from benchmarks.results_packed import FLOAT, NETWORKS, Compression, results
from nncf_ext import NNCFConfig

MADE: dict[str, Callable[[], nn.Module]] = {
    "LeNet-300-100": networks_torch.lenet_300_100,
    "LeNet-5": networks_torch.lenet_5,
    "residual network": DigitsNet,
    "SqueezeNet": lambda: networks_torch.SqueezeNet(10, 1),
}


class TorchTrained:
    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.folder, self._network, self._seed = folder, NETWORKS[name], seed
        data = tasks.digits() if self._network.side == 8 else tasks.large_digits(self._network.side)
        self._x, self._y = torch.from_numpy(data.train_x)[:, None], torch.from_numpy(data.train_y)
        self.test = np.ascontiguousarray(data.test_x[:, None]), data.test_y
        torch.manual_seed(seed)
        self._model = MADE[name]()
        self._fit(self._model, self._network.epochs, self._network.rate)
        save_file(self._model.state_dict(), folder / FLOAT)

    def compressed(self, compression: Compression) -> Any:
        torch.manual_seed(self._seed)
        info = {"sample_size": [1, *self._x.shape[1:]]}
        config = NNCFConfig.from_dict({"input_info": info, "compression": compression})
        batches = list(zip(self._x.split(self._network.batch), self._y.split(self._network.batch), strict=True))
        register_default_init_args(config, batches, nn.CrossEntropyLoss())
        return create_compressed_model(copy.deepcopy(self._model), config)[0]

    def fit(self, ctrl: Any, epochs: int, rate: float) -> None:
        self._fit(ctrl.model, epochs, rate, ctrl)

    def _fit(self, model: nn.Module, epochs: int, rate: float, ctrl: Any = None) -> None:
        optimizer = torch.optim.Adam(model.parameters(), rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(self._y) // self._network.batch))
        order = torch.Generator().manual_seed(self._seed)
        for _ in range(epochs):
            model.train()
            if ctrl is not None:
                ctrl.scheduler.epoch_step()
            for rows in torch.randperm(len(self._y), generator=order).split(self._network.batch):
                if ctrl is not None:
                    ctrl.scheduler.step()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(self._x[rows]), self._y[rows])
                (loss if ctrl is None else loss + ctrl.loss()).backward()
                optimizer.step()
                falling.step()

    def accuracy(self, ctrl: Any = None) -> float:
        model = self._model if ctrl is None else ctrl.model
        x, y = self.test
        model.eval()
        with torch.no_grad():
            return float((model(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    report_result(lambda: results(TorchTrained, int(sys.argv[1]), sys.argv[2]))
