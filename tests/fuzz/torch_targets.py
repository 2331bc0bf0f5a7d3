"""The targets that need a compressed model: a controller takes over damaged checkpoints and states, or is as it was."""

from __future__ import annotations

import json
import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.checkpoint import CheckpointError
from tests.fuzz.damage import damaged_data
from tests.fuzz.targets import Target, damaged_safetensors, outcome

_MULTISTEP = {"schedule": "multistep", "multistep_sparsity_levels": [0.3, 0.5], "multistep_steps": [1]}
COMPRESSIONS: list[list[dict[str, Any]]] = [
    [{"algorithm": "quantization"}, {"algorithm": "magnitude_sparsity", "params": _MULTISTEP}],
    [{"algorithm": "rb_sparsity", "params": _MULTISTEP}],
    [{"algorithm": "iterative_magnitude", "params": {"sparsity_target": 0.5, "rounds": 2}}],
    [{"algorithm": "dynamic_sparse_training", "params": {"method": "rigl", "sparsity_target": 0.5}}],
    [{"algorithm": "weight_clustering"}],
    [{"algorithm": "filter_pruning", "params": {"pruning_target": 0.5}}],
]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 5))


def _config(compression: list[dict[str, Any]]) -> NNCFConfig:
    x = torch.ones(2, 3, 6, 6)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 6, 6]}, "compression": compression})
    return register_default_init_args(config, [(x, x)])


@cache
def _subject(number: int) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        controller, model = create_compressed_model(_net(), _config(COMPRESSIONS[number]))
        controller.scheduler.epoch_step()
        controller.scheduler.step()
    return controller, model


def _values(controller: Any, model: Any) -> tuple[str, dict[str, np.ndarray]]:
    state = json.dumps(controller.get_compression_state(), sort_keys=True)
    return state, {name: value.numpy().copy() for name, value in model.state_dict().items()}


def _goes_on(controller: Any, model: Any) -> None:
    controller.scheduler.epoch_step()
    controller.scheduler.step()
    model.train()
    (model(torch.ones(2, 3, 6, 6)).sum() + controller.loss()).backward()
    controller.statistics()
    controller.get_compression_state()


def loading(folder: Path, rng: random.Random) -> str | None:
    """A checkpoint with damage is refused, and all is as it was; or it is taken, and training goes on."""
    number = rng.randrange(len(COMPRESSIONS))
    controller, model = _subject(number)
    whole, path = folder / f"{number}.safetensors", folder / "x.safetensors"
    if not whole.exists():
        controller.save_checkpoint(whole)
    path.write_bytes(damaged_safetensors(rng, whole.read_bytes(), "nncf_ext"))
    state, tensors = _values(controller, model)
    refused = []

    def take_over() -> None:
        try:
            controller.load_checkpoint(path)
        except CheckpointError:
            refused.append(True)
            raise

    problem = outcome(take_over, CheckpointError)
    return problem or _as_it_was_or_goes_on(number, bool(refused), state, tensors)


def _as_it_was_or_goes_on(number: int, refused: bool, state: str, tensors: dict[str, np.ndarray]) -> str | None:
    controller, model = _subject(number)
    now, after = _values(controller, model)
    if refused:
        same = now == state and all(np.array_equal(value, after[name]) for name, value in tensors.items())
        return None if same else "refused, and the controller is another one"
    problem = outcome(lambda: _goes_on(controller, model))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(torch.as_tensor(tensors[name]))
    controller.load_state(json.loads(state))
    return problem and f"accepted, and then {problem}"


def states(folder: Path, rng: random.Random) -> str | None:
    number = rng.randrange(len(COMPRESSIONS))
    controller, model = _subject(number)
    state, tensors = _values(controller, model)
    damaged = damaged_data(rng, json.loads(state) if rng.random() < 0.5 else controller.get_state())
    refused = []

    def take_over() -> None:
        try:
            controller.load_state(damaged)
        except CheckpointError:
            refused.append(True)
            raise

    problem = outcome(take_over, CheckpointError)
    return problem or _as_it_was_or_goes_on(number, bool(refused), state, tensors)


def creation(folder: Path, rng: random.Random) -> str | None:
    number = rng.randrange(len(COMPRESSIONS))
    state = json.loads(_values(*_subject(number))[0])
    damaged = damaged_data(rng, state)
    return outcome(
        lambda: create_compressed_model(_net(), _config(COMPRESSIONS[number]), compression_state=damaged),
        CheckpointError,
        ConfigError,
    )


TARGETS: dict[str, Target] = {
    "checkpoints loaded into a controller": loading,
    "states loaded into a controller": states,
    "models made from damaged states": creation,
}
