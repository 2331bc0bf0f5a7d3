"""Gradients of parameters without their masks, caught where an optimizer takes them, and what optimizers keep for parameters.

When an optimizer begins its step (`optimizer_steps`), gradients are accumulated, reduced over ranks, unscaled and clipped, and no
loop has to be changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from nncf_ext_torch.optimizer_steps import listen
from nncf_ext_torch.sharding import overwrite, whole


class Mask(Protocol):
    """An edit at work."""

    enabled: bool

    def __call__(self, x: torch.Tensor, training: bool) -> torch.Tensor: ...


Request = tuple[str, Mask, torch.nn.Parameter]  # edit key, the edit, its parameter


class DenseGradients:
    """What one model asked for. Copies of the model have none, and listen to nobody."""

    def __init__(self) -> None:
        self._waiting: dict[str, Request] = {}
        self._taken: dict[str, torch.Tensor] = {}
        self._arrived: Callable[[], None] = lambda: None
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        listen(self)

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()

    def request(self, masks: Sequence[Request], arrived: Callable[[], None]) -> None:
        self._waiting = {request[0]: request for request in masks}
        self._taken, self._arrived = {}, arrived
        for _, mask, _ in masks:
            mask.enabled = False

    def taken(self) -> Mapping[str, torch.Tensor] | None:
        if self._waiting or not self._taken:
            return None
        taken, self._taken = self._taken, {}
        return taken

    def states_of(self, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
        """The tensors of the parameter's shape that optimizers keep for it."""
        kept = (value for optimizer in self._optimizers for value in optimizer.state.get(parameter, {}).values())
        return [value for value in kept if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim]

    def second_moment_of(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """The running mean of its squared gradients, as torch's optimizers name it."""
        for optimizer in self._optimizers:
            state = optimizer.state.get(parameter, {})
            for name in ("exp_avg_sq", "square_avg"):
                if isinstance(state.get(name), torch.Tensor):
                    return state[name]
        return None

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers.add(optimizer)
        if not self._waiting:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for key, mask, parameter in self._waiting.values():
            gradient = parameter.grad
            if id(parameter) not in held or gradient is None:
                continue
            dense = whole(gradient.detach())
            self._taken[key] = dense.clone() if dense is gradient or dense.data_ptr() == gradient.data_ptr() else dense
            mask.enabled = True
            overwrite(gradient, mask(dense, True))
            mask.enabled = False

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._taken or not self._waiting:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        elsewhere = [
            key for key, _, parameter in self._waiting.values() if id(parameter) not in held and parameter.grad is not None
        ]
        if any(key not in self._taken for key in elsewhere):
            return  # the step of another optimizer is to come
        for _, mask, _ in self._waiting.values():
            mask.enabled = True
        self._waiting = {}
        self._arrived()
