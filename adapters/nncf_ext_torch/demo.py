"""The demo in PyTorch: train, compress while training, export, verify. Run by `nncf-ext demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nncf_ext import NNCFConfig, RunLog
from nncf_ext.tools import demo
from nncf_ext_torch import create_compressed_model, register_default_init_args


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """A small residual network for 1x8x8 images and 10 classes. widths: channels of the stem and of the three blocks."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 64, 128, 192)) -> None:
        super().__init__()
        stem, first, second, third = widths
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.blocks = nn.Sequential(Residual(stem, first, 1), Residual(first, second, 2), Residual(second, third, 2))
        self.head = nn.Linear(third, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def run(folder: Path) -> None:
    start = time.perf_counter()
    torch.manual_seed(demo.SEED)
    data = demo.load_digits()
    images, labels = torch.from_numpy(data.train_images[:, None]), torch.from_numpy(data.train_labels)
    test_images, test_labels = torch.from_numpy(data.test_images[:, None]), torch.from_numpy(data.test_labels)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels),
        demo.BATCH_SIZE,
        shuffle=True,
        generator=torch.Generator().manual_seed(demo.SEED),
    )
    model, criterion = DigitsNet(), nn.CrossEntropyLoss()

    with demo.progress_bar() as bar:
        task = bar.add_task("torch: training in float", total=demo.FLOAT_EPOCHS, note="")
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, demo.FLOAT_EPOCHS)
        for _ in range(demo.FLOAT_EPOCHS):
            model.train()
            for x, y in loader:
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()
            schedule.step()
            bar.update(task, advance=1, note=f"accuracy {accuracy(model, test_images, test_labels):.4f}")
        rows = [demo.Measured("float model", accuracy(model, test_images, test_labels))]
        plain, _ = create_compressed_model(model, NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 8, 8]}}))
        plain.export_model(folder / "float.onnx")
        model = plain.strip(do_copy=False, quantizers=False)

        with demo.config_file() as path:
            config = NNCFConfig.from_json(path)
        config = register_default_init_args(config, loader)
        ctrl, model = create_compressed_model(model, config)

        log = RunLog(demo.without_log(folder), ctrl)
        task = bar.add_task("torch: compressing", total=demo.COMPRESSED_EPOCHS, note="")
        optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, demo.COMPRESSED_EPOCHS)
        for _ in range(demo.COMPRESSED_EPOCHS):
            model.train()
            ctrl.scheduler.epoch_step()
            for x, y in loader:
                ctrl.scheduler.step()
                optimizer.zero_grad()
                loss = criterion(model(x), y) + ctrl.loss()
                loss.backward()
                optimizer.step()
            schedule.step()
            level, reached = (
                ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers,
                accuracy(model, test_images, test_labels),
            )
            log.epoch(accuracy=reached)
            note = f"accuracy {reached:.4f}, sparsity {level:.2f}"
            bar.update(task, advance=1, note=note)
    rows.append(demo.Measured("compressed model", accuracy(model, test_images, test_labels)))
    ctrl.save_checkpoint(folder / "compressed.safetensors")
    parity = ctrl.export_model(folder / "compressed.onnx")
    test = np.ascontiguousarray(data.test_images[:, None])
    rows.append(demo.measure_onnx(folder / "float.onnx", test, data.test_labels))
    rows.append(demo.measure_onnx(folder / "compressed.onnx", test, data.test_labels))
    demo.show("torch", rows, folder, time.perf_counter() - start)
    print(parity)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
