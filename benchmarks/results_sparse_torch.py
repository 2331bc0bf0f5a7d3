"""The PyTorch rows of `results_sparse.py`, in a process of their own: `python -m benchmarks.results_sparse_torch SEED`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from nncf_ext_torch import create_compressed_model
from nncf_ext_torch.demo import DigitsNet
from torch import nn

from benchmarks import networks_torch, tasks
from benchmarks.contest import Result, report_result
from benchmarks.results_sparse import FITTED, NETWORKS, Schedule, config, runs
from nncf_ext import NNCFConfig

MADE: dict[str, tuple[Callable[[], nn.Module], Callable[[], tasks.Data]]] = {
    "LeNet-300-100": (networks_torch.lenet_300_100, tasks.large_digits),
    "LeNet-5": (networks_torch.lenet_5, tasks.large_digits),
    "residual network": (DigitsNet, tasks.digits),
    "SqueezeNet": (lambda: networks_torch.SqueezeNet(10, 1), lambda: tasks.large_digits(48)),
    "decoder": (networks_torch.Decoder, tasks.characters),
}


def trained(name: str, method: str, level: float, schedule: Schedule, seed: int) -> dict[str, float]:
    """Accuracy after training from scratch; method: of dynamic_sparse_training, or "" for none."""
    make, load = MADE[name.removesuffix(FITTED)]
    data = load()
    x, y, test_x, test_y = (torch.from_numpy(part) for part in (data.train_x, data.train_y, data.test_x, data.test_y))
    if x.is_floating_point():
        x, test_x = x[:, None], test_x[:, None]
    y, test_y = y.long(), test_y.long()
    torch.manual_seed(seed)
    model = make()
    steps = schedule.epochs * -(-len(x) // schedule.batch)
    ctrl = None
    if method:
        info = {"sample_size": [1, *x.shape[1:]], "type": "float" if x.is_floating_point() else "long"}
        compression = config(method, level, steps, schedule)
        ctrl, model = create_compressed_model(model, NNCFConfig.from_dict({"input_info": info, "compression": compression}))
    optimizer = (
        torch.optim.AdamW(model.parameters(), schedule.rate)
        if schedule.adam
        else torch.optim.SGD(model.parameters(), schedule.rate, momentum=0.9, weight_decay=5e-4)
    )
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(schedule.epochs):
        model.train()
        if ctrl is not None:
            ctrl.scheduler.epoch_step()
        for rows in torch.randperm(len(x), generator=order).split(schedule.batch):
            if ctrl is not None:
                ctrl.scheduler.step()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]).flatten(0, -2), y[rows].flatten()).backward()
            optimizer.step()
            falling.step()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(-1) == test_y).float().mean())
    if ctrl is None:
        return {"accuracy": accuracy}
    report = ctrl.statistics().dynamic_sparse_training
    return {"accuracy": accuracy, "training_flops": report.training_flops, "inference_flops": report.inference_flops}


def results(seed: int) -> Result:
    torch.set_num_threads(1)
    return {
        name: {
            "dense": trained(name, "", 0.0, schedule, seed),
            **{run: trained(name, method, level, own, seed) for run, method, level, own in runs(name)},
        }
        for name, schedule in NETWORKS.items()
    }


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
