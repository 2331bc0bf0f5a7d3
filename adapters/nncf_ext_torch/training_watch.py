"""Tells `nncf_ext.step_watch` of the optimizer steps of a model, and of weights that are loaded into it."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nncf_ext.step_watch import StepWatch
from nncf_ext_torch.apply import PREFIX
from nncf_ext_torch.optimizer_steps import holds_any, ignore, listen


class TrainingWatch:
    def __init__(self, model: nn.Module, watch: StepWatch) -> None:
        self._model, self._watch = model, watch
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._loss_asked_for = False
        self._loading = model.register_load_state_dict_pre_hook(LoadHook(watch))
        if watch.has_to_see_steps:
            listen(self)

    def __call__(self) -> None:
        """End it."""
        self._loading.remove()
        ignore(self)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if optimizer not in self._optimizers:
            if not holds_any(optimizer, self._model.parameters()):
                return
            self._optimizers.add(optimizer)
        self._watch.step_begins(optimizer)
        if not self._loss_asked_for:
            self._loss_asked_for = True
            problem = self._watch.dropped_loss()
            if problem is not None:
                warnings.warn(problem, stacklevel=1)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing."""


class LoadHook:
    """A hook of `load_state_dict`. Copies of the model tell nobody."""

    def __init__(self, watch: StepWatch | None = None) -> None:
        self._watch = watch

    def __call__(self, model: nn.Module, state_dict: Mapping[str, Any], *_: Any) -> None:
        if self._watch is not None and any(PREFIX in name for name in state_dict):
            self._watch.weights_loaded()

    def __reduce__(self) -> Any:
        return LoadHook, ()
