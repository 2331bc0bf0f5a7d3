"""What the user's data loader gives, as model inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

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
from nncf_ext_tensorflow.data import KerasData


class QuantizationRangeInitArgs(initialization.QuantizationRangeInitArgs):
    """For `NNCFConfig.register_extra_structs`: data for ranges alone."""

    def __init__(self, data_loader: Any, device: Any = None):
        super().__init__(Batches(Data(data_loader, KerasData(), "data_loader")))


class BNAdaptationInitArgs(initialization.BNAdaptationInitArgs):
    """For `NNCFConfig.register_extra_structs`: data for BatchNorm statistics alone."""

    def __init__(self, data_loader: Any, device: Any = None):
        super().__init__(Batches(Data(data_loader, KerasData(), "data_loader")))


def register_default_init_args(
    config: NNCFConfig,
    data_loader: Any,
    batch_size: int | None = None,
    device: Any = None,
    *,
    criterion: Any = None,
    criterion_fn: Callable[[Any, Any, Any], Any] | None = None,
    train_steps_fn: Any = None,
    validate_fn: Any = None,
    val_loader: Any = None,
    autoq_eval_fn: Callable[[Any, Any], float] | None = None,
    legr_train_optimizer: Any = None,
) -> NNCFConfig:
    """Give the config the data and functions for what is initialised before training; returns the same config.

    data_loader: a `tf.data.Dataset`, a `PyDataset`, arrays or (x, y) of arrays, a dict of arrays, a list of batches or samples, a
    generator or a function that gives one (docs/data.md). Batches are (inputs, target), or bare inputs.
    batch_size: of batches that are made of samples (32); other batches are counted as they come. device: NNCF 2.x's argument.
    criterion: the task's loss, as `compile` takes it (a name, a `keras.losses.Loss`, a function of target and outputs), or with
    criterion_fn(outputs, target, criterion) anything; for precision by `hawq`.
    autoq_eval_fn(model, val_loader): a score, more is better, for precision by `autoq`; without val_loader on data_loader.
    train_steps_fn(data_loader, model, optimizer, controller, steps), validate_fn(model, val_loader) -> (accuracy, loss) and
    legr_train_optimizer() -> optimizer (SGD where missing): for learned_ranking of filter pruning.
    """
    data = Data(data_loader, KerasData(), "data_loader", batch_size)
    if train_steps_fn is not None and validate_fn is not None and val_loader is not None:
        refuse_one_shot(data_loader, "data_loader", "train_steps_fn")
        refuse_one_shot(val_loader, "val_loader", "validate_fn")
        optimizer_of = legr_train_optimizer or _sgd
        if isinstance(optimizer_of, keras.optimizers.Optimizer):
            raise ConfigError(
                f"legr_train_optimizer: found a {type(optimizer_of).__name__}, expected a function that makes one: "
                "each trial starts with a new one"
            )
        config.register_extra_structs(
            [
                LeGRInitArgs(
                    lambda model, controller, steps: train_steps_fn(data_loader, model, optimizer_of(), controller, steps),
                    lambda model: loss_in(validate_fn(model, val_loader)),
                )
            ]
        )
    if criterion is not None or criterion_fn is not None:
        loss = _keras_loss(criterion) if criterion_fn is None else lambda y, target: criterion_fn(y, target, criterion)
        config.register_extra_structs([QuantizationPrecisionInitArgs(Batches(data, labelled=True), loss)])
    if autoq_eval_fn is not None:
        loader, argument = (data_loader, "data_loader") if val_loader is None else (val_loader, "val_loader")
        refuse_one_shot(loader, argument, "autoq_eval_fn")
        config.register_extra_structs([AutoQPrecisionInitArgs(autoq_eval_fn, loader)])
    return register_loader(config, Batches(data))


def _sgd() -> keras.optimizers.Optimizer:
    """NNCF 2.x's for the search for a ranking, in PyTorch."""
    return keras.optimizers.SGD(1e-2, momentum=0.9, weight_decay=5e-4, nesterov=True)


def _keras_loss(criterion: Any) -> Callable[[Any, Any], Any]:
    """(outputs, target) -> scalar. ValueError for a name that Keras does not know."""
    loss: Any = keras.losses.get(criterion)
    return lambda outputs, target: keras.ops.mean(loss(target, outputs))


def example_of(config: NNCFConfig) -> Any:
    """Inputs made from the config's `input_info`; None where it has none."""
    infos = config.input_infos()
    if not infos:
        return None
    rng = np.random.default_rng(0)
    fill = {"ones": np.ones, "zeros": np.zeros, "random": rng.random}
    values = [
        keras.ops.convert_to_tensor(
            fill[info.filler](tuple(info.sample_size)), dtype="int64" if info.type == "long" else "float32"
        )
        for info in infos
    ]
    if all(info.keyword for info in infos):
        return {str(info.keyword): value for info, value in zip(infos, values, strict=True)}
    return values[0] if len(values) == 1 else values
