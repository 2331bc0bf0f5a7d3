"""The PyTorch rows of `results.py`, in a process of their own: `python -m benchmarks.results_torch SEED`."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.demo import DigitsNet
from torch import nn

from benchmarks.contest import Result, report_result
from benchmarks.results import EPOCHS, FLOAT_EPOCHS, FLOAT_RATE, IMAGE_ROWS, RATE, Row, measured
from nncf_ext import NNCFConfig
from nncf_ext.tools import demo


@dataclass(frozen=True)
class Task:
    """A network, its data as (inputs, labels), its input_info, and its optimizer of (model, whether it is float training)."""

    network: Callable[[], nn.Module]
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    input_info: Any
    optimizer: Callable[[nn.Module, bool], torch.optim.Optimizer]
    outputs: Callable[[Any], torch.Tensor] = lambda outputs: outputs

    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return float((self.outputs(model(self.test[0])).argmax(1) == self.test[1]).float().mean())

    def fit(self, model: nn.Module, epochs: int, seed: int, ctrl: Any = None) -> None:
        """Train with a cosine schedule; batches in an order that the seed tells."""
        order = torch.Generator().manual_seed(seed)
        optimizer = self.optimizer(model, ctrl is None)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            model.train()
            if ctrl is not None:
                ctrl.scheduler.epoch_step()
            for rows in torch.randperm(len(self.train[1]), generator=order).split(demo.BATCH_SIZE):
                if ctrl is not None:
                    ctrl.scheduler.step()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self.outputs(model(self.train[0][rows])), self.train[1][rows])
                (loss if ctrl is None else loss + ctrl.loss()).backward()
                optimizer.step()
            schedule.step()

    def trained(self, seed: int, epochs: int = FLOAT_EPOCHS) -> nn.Module:
        torch.manual_seed(seed)
        model = self.network()
        self.fit(model, epochs, seed)
        return model

    def compressed(self, model: nn.Module, row: Row, seed: int, folder: Path, epochs: int = EPOCHS) -> dict[str, Any]:
        """What `measured` says of a copy of `model`, compressed as the row says and trained on."""
        torch.manual_seed(seed + 100)
        config = NNCFConfig.from_dict(row.config(self.input_info))
        batches = list(zip(self.train[0].split(demo.BATCH_SIZE), self.train[1].split(demo.BATCH_SIZE), strict=True))
        register_default_init_args(config, batches, nn.CrossEntropyLoss())
        ctrl, compressed = create_compressed_model(copy.deepcopy(model), config)
        self.fit(compressed, epochs, seed + 100, ctrl)
        inputs, labels = (np.ascontiguousarray(part.numpy()) for part in self.test)
        return measured(ctrl, self.accuracy, folder / "compressed.onnx", inputs, labels)

    def results(self, rows: Mapping[str, Row], seed: int, epochs: int = EPOCHS) -> Result:
        torch.set_num_threads(1)
        model = self.trained(seed)
        with tempfile.TemporaryDirectory() as folder:
            outcome = {name: self.compressed(model, row, seed, Path(folder), epochs) for name, row in rows.items()}
        return {"float": self.accuracy(model), "rows": outcome}


def adam(model: nn.Module, rate: float, scores: float) -> torch.optim.Optimizer:
    """Learned masks have a learning rate of their own."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith(("score", "scores"))].append(parameter)
    return torch.optim.AdamW([{"params": groups[False], "lr": rate}, {"params": groups[True], "lr": scores}])


def image_optimizer(model: nn.Module, plain: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), FLOAT_RATE if plain else RATE, momentum=0.9, weight_decay=5e-4)


def digits() -> Task:
    data = demo.load_digits()
    return Task(
        DigitsNet,
        (torch.from_numpy(data.train_images[:, None]), torch.from_numpy(data.train_labels)),
        (torch.from_numpy(data.test_images[:, None]), torch.from_numpy(data.test_labels)),
        {"sample_size": [1, 1, 8, 8]},
        image_optimizer,
    )


if __name__ == "__main__":
    report_result(lambda: digits().results(IMAGE_ROWS, int(sys.argv[1])))
