"""The PyTorch rows of `results_learned.py`, in a process of their own: `python -m benchmarks.results_learned_torch SEED`."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from nncf_ext_torch import create_compressed_model
from torch import nn

from benchmarks import networks_torch, tasks
from benchmarks.contest import Result, report_result
from benchmarks.results_learned import BATCH, EPOCHS, FLOAT_EPOCHS, OWN_RATE, RATE, ROWS, entries
from nncf_ext import NNCFConfig

MADE = {"LeNet-300-100": networks_torch.lenet_300_100, "LeNet-5": networks_torch.lenet_5}


class Task:
    def __init__(self, seed: int) -> None:
        data = tasks.large_digits()
        self.seed = seed
        self.x, self.test_x = (torch.from_numpy(part)[:, None] for part in (data.train_x, data.test_x))
        self.y, self.test_y = (torch.from_numpy(part) for part in (data.train_y, data.test_y))

    def fit(self, model: nn.Module, epochs: int, ctrl: Any = None) -> None:
        own = [p for name, p in model.named_parameters() if "nncf_ext" in name]
        weights = [p for name, p in model.named_parameters() if "nncf_ext" not in name]
        optimizer = torch.optim.Adam([{"params": weights, "lr": RATE}, {"params": own, "lr": OWN_RATE}])
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(epochs):
            model.train()
            if ctrl is not None:
                ctrl.scheduler.epoch_step()
            for rows in torch.randperm(len(self.y), generator=order).split(BATCH):
                if ctrl is not None:
                    ctrl.scheduler.step()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(self.x[rows]), self.y[rows])
                (loss if ctrl is None else loss + ctrl.loss()).backward()
                optimizer.step()
            falling.step()

    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return float((model(self.test_x).argmax(1) == self.test_y).float().mean())


def results(seed: int) -> Result:
    torch.set_num_threads(1)
    task, found = Task(seed), {}
    for network in ROWS:
        torch.manual_seed(seed)
        model = MADE[network]()
        task.fit(model, FLOAT_EPOCHS)
        longer = copy.deepcopy(model)
        task.fit(longer, EPOCHS)
        found[network] = {"float": task.accuracy(longer)}
        for name, entry in entries(network, found[network]):
            config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 28, 28]}, "compression": entry})
            ctrl, compressed = create_compressed_model(copy.deepcopy(model), config)
            task.fit(compressed, EPOCHS, ctrl)
            level = getattr(ctrl.statistics(), entry["algorithm"]).sparsity_level_for_layers
            found[network][name] = {"accuracy": task.accuracy(ctrl.strip()), "left": 1 - float(level)}
    return found


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
