"""The steps of all optimizers, by torch's own hooks on them, for those who listen. They are there from the first `listen` to
the last `ignore`; where a listener was let go instead, they stay and do nothing, since a step underway may be running them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Listener(Protocol):
    def before_step(self, optimizer: torch.optim.Optimizer) -> None: ...

    def after_step(self, optimizer: torch.optim.Optimizer) -> None: ...


_listening: weakref.WeakSet[Any] = weakref.WeakSet()
_hooks: list[Any] = []
_hooked: Any = torch.optim.Optimizer.profile_hook_step(lambda: None)
_HOOKED_STEP = _hooked.__code__  # that of all steps, which calls the hooks around them


def listen(listener: Listener) -> None:
    """Until `ignore`, or until nobody holds `listener`."""
    _listening.add(listener)
    if not _hooks:
        _hooks.extend((register_optimizer_step_pre_hook(_before), register_optimizer_step_post_hook(_after)))


def ignore(listener: Listener) -> None:
    """The reverse. Not to be called within a step."""
    _listening.discard(listener)
    if not _listening:
        while _hooks:
            _hooks.pop().remove()


def holds_any(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter]) -> bool:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return any(id(parameter) in held for parameter in parameters)


def is_within_another(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step of `optimizer`, which is under way, is a part of another's, as with ZeroRedundancyOptimizer."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is _HOOKED_STEP and frame.f_locals["self"] is not optimizer:
            return True
        frame = frame.f_back
    return False


def _before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for listener in list(_listening):
        listener.before_step(optimizer)


def _after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for listener in list(_listening):
        listener.after_step(optimizer)
