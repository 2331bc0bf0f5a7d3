"""Averages over the course of one training: exponential (EMA) and plain (SWA, Izmailov et al. 2018)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nncf_ext.adapter import Adapter
from nncf_ext.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nncf_ext.data import model_inputs


class WeightAverage:
    """e <- e + (1 - d_t) * (w - e) at every `update`, for all floating-point tensors w of a model, kept in their own type.

    decay: d; d_t = min(d, (1 + t) / (10 + t)) at update t = 0, 1, ..., from the weights at the start. None: d_t = t / (t + 1),
    the plain mean of all updates. Integers, and the tensors named in `copied`, are the model's latest.
    """

    def __init__(self, adapter: Adapter, model: Any, copied: Collection[str], decay: float | None = None):
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"decay: found {decay}, expected 0 <= decay < 1, or None for the plain mean")
        self._adapter, self._model, self._copied = adapter, model, frozenset(copied)
        self.decay, self.updates = decay, 0
        self.tensors = self._present()

    def update(self) -> None:
        """To be called after an optimizer step (EMA), or at the end of an epoch (SWA)."""
        t = self.updates
        rate = 1 / (t + 1) if self.decay is None else 1 - min(self.decay, (1 + t) / (10 + t))
        for name, value in self._adapter.tensors(self._model).items():
            average = self.tensors[name]
            if name in self._copied or value.dtype.kind != "f" or rate == 1:
                average[...] = value
            else:
                average += np.asarray(rate, value.dtype) * (value - average)
        self.updates += 1

    @contextmanager
    def applied(self, batches: Any = None) -> Iterator[Any]:
        """The model with the average in it: to evaluate, save, strip or export. Afterwards it has its own weights again.

        batches: training data (see `nncf_ext.data`), on which BatchNorm statistics are estimated anew.
        """
        before = self._present()
        try:
            self._adapter.load_tensors(self._model, self.tensors)
            if batches is not None:
                given = model_inputs(self._adapter.data, self._model, batches, "batches")
                self._adapter.adapt_batchnorm(self._model, given)
            yield self._model
        finally:
            self._adapter.load_tensors(self._model, before)

    def save(self, path: str | os.PathLike[str]) -> None:
        """For a training that goes on later: beside the controller's checkpoint."""
        save_checkpoint(path, self.tensors, {"updates": self.updates, "decay": self.decay})

    def load(self, path: str | os.PathLike[str]) -> None:
        """What `save` wrote. CheckpointError, and nothing changed, where it is of another average or another model."""
        tensors, state = load_checkpoint(path)
        if "updates" not in state or state.get("decay") != self.decay:
            found = f"decay {state['decay']}" if "decay" in state else "another kind of checkpoint"
            raise CheckpointError(f"{path}: found {found}, expected an average with decay {self.decay}")
        shapes, ours = ({name: array.shape for name, array in kind.items()} for kind in (tensors, self.tensors))
        if shapes != ours:
            name = min(name for name in shapes.keys() | ours.keys() if shapes.get(name) != ours.get(name))
            raise CheckpointError(
                f"{path} is of another model: {name} has shape {shapes.get(name)}, the model's {ours.get(name)}"
            )
        self.tensors, self.updates = tensors, state["updates"]

    def _present(self) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in self._adapter.tensors(self._model).items()}
