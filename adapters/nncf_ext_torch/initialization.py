"""What the user's data loader gives, as model inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.calibration import initialization
from nncf_ext.calibration.initialization import (
    AutoQPrecisionInitArgs,
    LeGRInitArgs,
    QuantizationPrecisionInitArgs,
    loss_in,
)
from nncf_ext.data import Batches, Data, refuse_one_shot
from nncf_ext.nncf_config import register_loader
from nncf_ext_torch.data import TorchData, target_of
from nncf_ext_torch.trace import ExampleInput


class PTInitializingDataLoader:
    """NNCF 2.x's way to tell what of a batch are the model's inputs: override `get_inputs` and `get_target`."""

    def __init__(self, data_loader: Any):
        self._data_loader = data_loader

    @property
    def batch_size(self) -> int:
        return self._data_loader.batch_size

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data_loader)

    def __len__(self) -> int:
        return len(self._data_loader)

    def get_inputs(self, dataloader_output: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the model's call."""
        example = inputs_of(dataloader_output)
        return example.args, dict(example.kwargs)

    def get_target(self, dataloader_output: Any) -> Any:
        """What the loss compares with."""
        return target_of(dataloader_output)


def wrap_dataloader_for_init(data_loader: Any) -> PTInitializingDataLoader:
    """The loader as one that tells inputs from targets."""
    return data_loader if isinstance(data_loader, PTInitializingDataLoader) else PTInitializingDataLoader(data_loader)


class QuantizationRangeInitArgs(initialization.QuantizationRangeInitArgs):
    """For `NNCFConfig.register_extra_structs`: data for ranges alone."""

    def __init__(self, data_loader: Any, device: Any = None):
        super().__init__(Batches(Data(data_loader, TorchData(device), "data_loader")))


class BNAdaptationInitArgs(initialization.BNAdaptationInitArgs):
    """For `NNCFConfig.register_extra_structs`: data for BatchNorm statistics alone."""

    def __init__(self, data_loader: Any, device: Any = None):
        super().__init__(Batches(Data(data_loader, TorchData(device), "data_loader")))


@dataclass(frozen=True)
class ExecutionParameters:
    """NNCF 2.x's, without use: see `register_default_init_args`."""

    cpu_only: bool
    current_gpu: int | None


def register_default_init_args(
    config: NNCFConfig,
    train_loader: Any,
    criterion: Any = None,
    criterion_fn: Any = None,
    train_steps_fn: Any = None,
    validate_fn: Any = None,
    val_loader: Any = None,
    autoq_eval_fn: Any = None,
    model_eval_fn: Any = None,
    distributed_callbacks: Any = None,
    execution_parameters: Any = None,
    legr_train_optimizer: Any = None,
    device: Any = None,
) -> NNCFConfig:
    """Give the config the data and functions for what is initialised before training; returns the same config.

    train_loader: a DataLoader, a Dataset, arrays or (x, y) of arrays, a dict of arrays, a list of batches or samples, a generator
    or a function that gives one (docs/data.md). Batches are (inputs, target) pairs, detection's (a list of images, a list of
    mappings), mappings (Hugging Face batches; `labels` is the target), or bare inputs; a loader with
    `get_inputs(batch) -> (args, kwargs)` and `get_target(batch)` decides itself (NNCF's PTInitializingDataLoader).
    criterion(outputs, target), or criterion_fn(outputs, target, criterion): the task's loss, for precision by `hawq`.
    autoq_eval_fn(model, val_loader): a score, more is better, for precision by `autoq`; without val_loader on train_loader.
    train_steps_fn(train_loader, model, optimizer, controller, steps), validate_fn(model, val_loader) -> (accuracy, loss) and
    legr_train_optimizer(parameters) -> optimizer (SGD where missing): for learned_ranking of filter pruning.
    The other arguments are NNCF 2.x's, accepted for its order; those of algorithms that are not built yet have no use so far.

    >>> config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(64, 4), torch.ones(64)), batch_size=16)
    >>> config = register_default_init_args(config, loader)  # input_info is taken from the batches
    >>> controller, model = create_compressed_model(torch.nn.Sequential(torch.nn.Linear(4, 2)), config)
    """
    data = Data(train_loader, TorchData(device), "train_loader")
    if train_steps_fn is not None and validate_fn is not None and val_loader is not None:
        optimizer_of = legr_train_optimizer or _sgd
        if isinstance(optimizer_of, torch.optim.Optimizer):
            raise ConfigError(
                f"legr_train_optimizer: found a {type(optimizer_of).__name__}, expected a function that makes one of parameters: "
                "each trial starts with a new one"
            )
        refuse_one_shot(train_loader, "train_loader", "train_steps_fn")
        refuse_one_shot(val_loader, "val_loader", "validate_fn")
        config.register_extra_structs([_trials(train_loader, train_steps_fn, val_loader, validate_fn, optimizer_of)])
    if criterion is not None or criterion_fn is not None:
        of_outputs = criterion_fn or _plain_criterion
        args = QuantizationPrecisionInitArgs(
            Batches(data, labelled=True), lambda outputs, target: of_outputs(outputs, target, criterion)
        )
        config.register_extra_structs([args])
    if autoq_eval_fn is not None:
        loader, argument = (train_loader, "train_loader") if val_loader is None else (val_loader, "val_loader")
        refuse_one_shot(loader, argument, "autoq_eval_fn")
        config.register_extra_structs([AutoQPrecisionInitArgs(autoq_eval_fn, loader)])
    return register_loader(config, Batches(data))


def _sgd(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """NNCF 2.x's for the search for a ranking."""
    return torch.optim.SGD(parameters, 1e-2, momentum=0.9, weight_decay=5e-4, nesterov=True)


def _trials(train_loader: Any, train_steps_fn: Any, val_loader: Any, validate_fn: Any, optimizer_of: Any) -> LeGRInitArgs:
    def train(model: torch.nn.Module, controller: Any, steps: int) -> None:
        with _modes_kept(model):
            model.train()
            optimizer = optimizer_of([p for p in model.parameters() if p.requires_grad])
            train_steps_fn(train_loader, model, optimizer, controller, steps)
            for parameter in model.parameters():
                parameter.grad = None

    def validate(model: torch.nn.Module) -> float:
        with _modes_kept(model):
            model.eval()
            return loss_in(validate_fn(model, val_loader))

    return LeGRInitArgs(train, validate)


@contextmanager
def _modes_kept(model: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _plain_criterion(outputs: Any, target: Any, criterion: Any) -> Any:
    return criterion(outputs, target)


def inputs_of(batch: Any) -> ExampleInput:
    """The model inputs in one batch of a loader, of a model of which nothing is known."""
    return next(Batches(Data([batch], TorchData(), "data_loader"))())


def example_of(config: NNCFConfig, model: torch.nn.Module) -> ExampleInput | None:
    """Inputs made from the config's `input_info`, on the model's device and of its weights' type, where they have one; None where
    it has none."""
    infos = config.input_infos()
    if not infos:
        return None
    device = next(iter(model.parameters()), torch.empty(0)).device
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    floating = types.pop() if len(types) == 1 else torch.float32
    args, kwargs = [], {}
    for info in infos:
        dtype = torch.long if info.type == "long" else floating
        fill = {"ones": torch.ones, "zeros": torch.zeros, "random": torch.rand}[info.filler]
        value = fill(tuple(info.sample_size)).to(device, dtype)
        if info.keyword is None:
            args.append(value)
        else:
            kwargs[info.keyword] = value
    return ExampleInput(tuple(args), kwargs)
