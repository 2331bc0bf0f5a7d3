"""The targets that need a compressed model: a controller takes over damaged checkpoints and states, or is as it was.

The same for every framework: `targets` makes them of what a framework has.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.checkpoint import CheckpointError
from tests.fuzz.damage import damaged_data
from tests.fuzz.targets import Target, damaged_safetensors, outcome

_MULTISTEP = {"schedule": "multistep", "multistep_sparsity_levels": [0.3, 0.5], "multistep_steps": [1]}
_MOVING = {"warmup_start_epoch": 0, "warmup_end_epoch": 3, "steps_per_epoch": 2, "importance_regularization_factor": 0.1}
_TERM = {"weight": 0.5, "schedule": "linear", "ramp_epochs": 2}
_PROXIMAL = {"type": "l1", "proximal_step": 0.1, **_TERM}
_STAGED = {"activations_quant_start_epoch": 1, "weights_quant_start_epoch": 2}
# One for each algorithm that remembers something, and those whose state is a schedule's alone.
COMPRESSIONS: list[list[dict[str, Any]]] = [
    [{"algorithm": "quantization"}, {"algorithm": "magnitude_sparsity", "params": _MULTISTEP}],
    [{"algorithm": "quantization", "params": _STAGED}],
    [{"algorithm": "rb_sparsity", "params": _MULTISTEP}],
    [{"algorithm": "iterative_magnitude", "params": {"sparsity_target": 0.5, "rounds": 2}}],
    [{"algorithm": "dynamic_sparse_training", "params": {"method": "rigl", "sparsity_target": 0.5}}],
    [{"algorithm": "weight_clustering"}],
    [{"algorithm": "filter_pruning", "params": {"pruning_target": 0.5}}],
    [{"algorithm": "movement_sparsity", "params": {**_MOVING, "enable_structured_masking": False}}],
    [
        {
            "algorithm": "corad",
            "regularization": {"type": "l1", "proximal_step": 0.1, **_TERM},
            "distillation": {"type": "mse", **_TERM},
        }
    ],
    [{"algorithm": "corad", "regularization": {"type": "latency", **_TERM}}],
    [{"algorithm": "product_quantization", "params": {"linear": {"subvector": 4, "codewords": 8}}}],
    [{"algorithm": "clip_q", "params": {"start_epoch": 1}}],
    [{"algorithm": "ecsq", "params": {"levels": 9, "target_bits": 2}}],
    [{"algorithm": "binarization", "params": {"activations_quant_start_epoch": 0, "weights_quant_start_epoch": 1}}],
    [{"algorithm": "l0_sparsity"}, {"algorithm": "knowledge_distillation", "type": "mse"}],
    [{"algorithm": "soft_threshold", "params": {"initial_threshold": -3}}],
    [{"algorithm": "variational_dropout"}],
    [{"algorithm": "const_sparsity"}],
]


@dataclass
class Framework:
    """create: (compression, compression state or None) -> (controller, model). step: forward and backward in training mode."""

    create: Callable[[Sequence[Mapping[str, Any]], Any], tuple[Any, Any]]
    step: Callable[[Any, Any], None]
    tensors: Callable[[Any], dict[str, np.ndarray]]
    load_tensors: Callable[[Any, dict[str, np.ndarray]], None]
    subjects: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def subject(self, number: int) -> tuple[Any, Any]:
        if number not in self.subjects:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                controller, model = self.create(COMPRESSIONS[number], None)
                controller.scheduler.epoch_step()
                controller.scheduler.step()
            self.subjects[number] = controller, model
        return self.subjects[number]

    def values(self, number: int) -> tuple[str, dict[str, np.ndarray]]:
        controller, model = self.subject(number)
        state = json.dumps(controller.get_compression_state(), sort_keys=True)
        return state, {name: value.copy() for name, value in self.tensors(model).items()}

    def goes_on(self, number: int) -> None:
        controller, model = self.subject(number)
        controller.scheduler.epoch_step()
        controller.scheduler.step()
        self.step(controller, model)
        controller.statistics()
        controller.get_compression_state()

    def attempt(
        self, number: int, take_over: Callable[[Any, Any], None], error: type[ValueError] = CheckpointError
    ) -> str | None:
        """What is taken is followed by a step of training; what is refused, by an `error`, changes nothing."""
        controller, model = self.subject(number)
        state, tensors = self.values(number)
        refused = []

        def taken() -> None:
            try:
                take_over(controller, model)
            except error:
                refused.append(True)
                raise

        problem = outcome(taken, error)
        if problem:
            self.subjects.pop(number)
            return problem
        now, after = self.values(number)
        if refused:
            same = now == state and all(np.array_equal(value, after[name]) for name, value in tensors.items())
            if not same:
                self.subjects.pop(number)
            return None if same else "refused, and the controller is another one"
        problem = outcome(lambda: self.goes_on(number))
        if problem:
            self.subjects.pop(number)
            return f"accepted, and then {problem}"
        self.load_tensors(model, tensors)
        controller.load_state(json.loads(state))
        return None


def config(compression: Sequence[Mapping[str, Any]], sample: list[int]) -> NNCFConfig:
    return NNCFConfig.from_dict({"input_info": {"sample_size": sample}, "compression": list(compression)})


def targets(framework: Framework) -> dict[str, Target]:
    def loading(folder: Path, rng: random.Random) -> str | None:
        number = rng.randrange(len(COMPRESSIONS))
        whole, path = folder / f"{number}.safetensors", folder / "x.safetensors"
        if not whole.exists():
            framework.subject(number)[0].save_checkpoint(whole)
        path.write_bytes(damaged_safetensors(rng, whole.read_bytes(), "nncf_ext"))
        return framework.attempt(number, lambda controller, _: controller.load_checkpoint(path))

    def states(folder: Path, rng: random.Random) -> str | None:
        number = rng.randrange(len(COMPRESSIONS))
        controller, _ = framework.subject(number)
        whole = controller.get_compression_state() if rng.random() < 0.5 else controller.get_state()
        damaged = damaged_data(rng, json.loads(json.dumps(whole)))
        return framework.attempt(number, lambda controller, _: controller.load_state(damaged))

    def creation(folder: Path, rng: random.Random) -> str | None:
        number = rng.randrange(len(COMPRESSIONS))
        damaged = damaged_data(rng, json.loads(framework.values(number)[0]))
        return outcome(lambda: framework.create(COMPRESSIONS[number], damaged), CheckpointError, ConfigError)

    return {
        "checkpoints loaded into a controller": loading,
        "states loaded into a controller": states,
        "models made from damaged states": creation,
    }
