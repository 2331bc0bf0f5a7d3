"""What the user's data loader gives, as model inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.initialization import LeGRInitArgs, loss_in, register_loader


def register_default_init_args(
    config: NNCFConfig,
    data_loader: Iterable[Any],
    batch_size: int,
    device: Any = None,
    *,
    train_steps_fn: Any = None,
    validate_fn: Any = None,
    val_loader: Any = None,
    legr_train_optimizer: Any = None,
) -> NNCFConfig:
    """Give the config the data for range initialisation and BatchNorm adaptation; returns the same config.

    data_loader: batches of (inputs, target), or of bare inputs: a `tf.data.Dataset` or any iterable that can be started anew.
    batch_size, device: NNCF 2.x's arguments; batches are counted as they come.
    train_steps_fn(data_loader, model, optimizer, controller, steps), validate_fn(model, val_loader) -> (accuracy, loss) and
    legr_train_optimizer() -> optimizer (SGD where missing): for learned_ranking of filter pruning.
    """
    if train_steps_fn is not None and validate_fn is not None and val_loader is not None:
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
    return register_loader(config, lambda: _inputs(data_loader))


def _sgd() -> keras.optimizers.Optimizer:
    """NNCF 2.x's for the search for a ranking, in PyTorch."""
    return keras.optimizers.SGD(1e-2, momentum=0.9, weight_decay=5e-4, nesterov=True)


def _inputs(loader: Iterable[Any]) -> Iterator[Any]:
    for batch in loader:
        if isinstance(batch, tuple):
            if not batch:
                raise ConfigError("range initialisation: the data loader gave an empty batch")
            batch = batch[0]
        yield keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


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
