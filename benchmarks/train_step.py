"""One contestant on one model, in a process of its own: what its training step costs over that of the same model in float32.

`qat_step.py` runs this file, with the Python of the contestant's own environment. The last line it prints is the result, as JSON.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import warnings
from dataclasses import asdict

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from measure import interleaved, paired_ratio
from models_torch import bert, mobilenet_v2, resnet18
from torch import Tensor, nn

BATCH, PIXELS, TOKENS, VOCABULARY = 8, 96, 64, 1000


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model in training mode and a batch for it. The BatchNorm statistics are warm: some tools calibrate with them."""
    if name == "bert":
        return bert().train(), torch.randint(0, VOCABULARY, (BATCH, TOKENS))
    model = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}[name]().train()
    images = torch.randn(BATCH, 3, PIXELS, PIXELS)
    with torch.no_grad():
        for _ in range(20):
            model(images)
    return model, images


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    outputs = model(batch)
    logits = getattr(outputs, "logits", outputs)
    return nn.functional.cross_entropy(logits, torch.arange(BATCH) % logits.shape[-1])


class Step:
    """Forward, loss, backward and an SGD step that also moves the learned scales, if the contestant has them."""

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        loss_of(self.model, self.batch).backward()
        self.optimizer.step()


def saved_bytes(model: nn.Module, batch: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass: all storages counted once, without those of the model itself."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # holding it keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, batch)
    return sum(storage.nbytes() for storage in kept.values())


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("peer")
    arguments.add_argument("model")
    arguments.add_argument("--rounds", type=int, required=True)
    arguments.add_argument("--compile", action="store_true")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)

    peer = importlib.import_module(f"peers.{options.peer}")
    float_model, batch = build(options.model)
    quantized = peer.quantize(copy.deepcopy(float_model), batch)
    result = {"quantizers": peer.count(quantized)}
    if options.compile:
        float_model, quantized = (torch.compile(model, fullgraph=True) for model in (float_model, quantized))
    else:
        result["saved"] = saved_bytes(quantized, batch) / saved_bytes(float_model, batch)
    times = interleaved({"float": Step(float_model, batch), "quantized": Step(quantized, batch)}, options.rounds, warmup=3)
    with torch.no_grad():
        if not torch.isfinite(loss_of(quantized, batch)):
            raise ArithmeticError("the loss became infinite or NaN")
    result["ratio"] = asdict(paired_ratio(times["quantized"], times["float"]))
    result["float_ms"] = 1000 * sorted(times["float"])[options.rounds // 2]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
