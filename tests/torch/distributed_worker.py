"""One rank of small trainings, alone or beside others: what the tests of distributed training start."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from safetensors.numpy import save_file
from torch import distributed, nn

from nncf_ext import NNCFConfig
from nncf_ext.tools import demo

BATCH, STEPS, EPOCHS = 32, 2, 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))


def train(folder: Path, wrapper: str, compression: list[Any], resume: str) -> None:
    """Train epochs 0 to 2, saving after the first, or go on with the checkpoint `resume`. Each rank writes its final state."""
    alone = wrapper == "alone"
    rank, world = (0, 1) if alone else (distributed.get_rank(), distributed.get_world_size())
    digits = demo.load_digits()
    x, y = torch.from_numpy(digits.train_images).flatten(1), torch.from_numpy(digits.train_labels)
    own = [(x[i * BATCH : (i + 1) * BATCH][rank::world], y[i * BATCH : (i + 1) * BATCH][rank::world]) for i in range(STEPS)]
    config = NNCFConfig.from_dict({"compression": compression})
    register_default_init_args(config, own, criterion=nn.CrossEntropyLoss())  # other data on every rank
    ctrl, model = create_compressed_model(net(), config)
    ctrl.distributed()
    wrapped: nn.Module = model
    if wrapper == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    elif wrapper == "fsdp":
        from torch.distributed.fsdp import fully_shard

        fully_shard(model[0])
        wrapped = fully_shard(model)
    if resume:
        ctrl.load_checkpoint(resume)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
    losses = []
    for epoch in range(ctrl.scheduler.current_epoch + 1, EPOCHS):
        ctrl.scheduler.epoch_step()
        wrapped.train()
        for images, labels in own:
            ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(wrapped(images), labels) + ctrl.loss()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if epoch == 0:
            ctrl.save_checkpoint(folder / f"first_epoch_{rank}.safetensors")
    tensors = ctrl._adapter.tensors(model)
    plan = json.dumps({"plan": ctrl.plan.to_json(), "losses": losses})
    save_file(tensors, folder / f"final_{rank}.safetensors", {"facts": plan})


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for job in json.loads(sys.argv[1]):
        train(Path(job["folder"]), job["wrapper"], job["compression"], job["resume"])
    distributed.destroy_process_group()
