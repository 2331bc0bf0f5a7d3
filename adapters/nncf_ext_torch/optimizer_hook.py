"""The hook around the steps of torch's optimizers (`nncf_ext.optimizer_hook`), by those of `optimizer_steps`.

When an optimizer begins its step, gradients are accumulated, reduced over ranks, unscaled and clipped, and no loop has to be
changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from nncf_ext.edits import Edit
from nncf_ext.graph import Site
from nncf_ext_torch.optimizer_steps import ignore, is_within_another, listen
from nncf_ext_torch.sharding import multiply, overwrite, whole


class Placed(Protocol):
    """An edit at work."""

    edit: Edit
    enabled: bool

    def __call__(self, x: torch.Tensor, training: bool) -> torch.Tensor: ...


class TorchOptimizerHook:
    """Of one model. Copies of the model have none, and listen to nobody.

    placed: by edit key. parameter: the one at a site, as optimizers hold it.
    """

    def __init__(self, placed: Mapping[str, Placed], parameter: Callable[[Site], torch.nn.Parameter]) -> None:
        self._placed, self._parameter = placed, parameter
        self._dense: list[Placed] = []
        self._after: dict[str, Callable[[Any], Any]] = {}
        self._is_waiting = False
        self._taken: dict[str, torch.Tensor] = {}
        self._arrived: Callable[[], None] = lambda: None
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()

    def listen(self, dense: Iterable[Edit] = (), after: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
        self._dense += [placed for edit in dense for placed in [self._placed[edit.key]] if placed not in self._dense]
        self._after |= after or {}
        listen(self)

    def end(self) -> None:
        ignore(self)

    def request_dense_gradients(self, arrived: Callable[[], None]) -> None:
        self._is_waiting, self._taken, self._arrived = True, {}, arrived
        for mask in self._dense:
            mask.enabled = False

    def dense_gradients(self) -> Mapping[str, torch.Tensor] | None:
        if self._is_waiting or not self._taken:
            return None
        taken, self._taken = self._taken, {}
        return taken

    def scale_parameter_and_moments(self, site: Site, factor: torch.Tensor) -> None:
        parameter = self._parameter(site)
        for tensor in (parameter, *self.states_of(parameter)):
            multiply(tensor, factor)

    def states_of(self, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
        """The tensors of the parameter's shape that optimizers keep for it."""
        kept = (value for optimizer in self._optimizers for value in optimizer.state.get(parameter, {}).values())
        return [value for value in kept if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim]

    def second_moment(self, site: Site) -> torch.Tensor | None:
        """As torch's optimizers name it."""
        for optimizer in self._optimizers:
            state = optimizer.state.get(self._parameter(site), {})
            for name in ("exp_avg_sq", "square_avg"):
                if isinstance(state.get(name), torch.Tensor):
                    return whole(state[name])
        return None

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers.add(optimizer)
        if not self._is_waiting:
            return
        held = _ids_of(optimizer)
        for mask in self._dense:
            parameter = self._parameter(mask.edit.site)
            gradient = parameter.grad
            if id(parameter) not in held or gradient is None:
                continue
            dense = whole(gradient.detach())
            is_same = dense is gradient or dense.data_ptr() == gradient.data_ptr()
            self._taken[mask.edit.key] = dense.clone() if is_same else dense
            mask.enabled = True
            overwrite(gradient, mask(dense, True))
            mask.enabled = False

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._after and not is_within_another(optimizer):
            held = _ids_of(optimizer)
            for key, change in self._after.items():
                parameter = self._parameter(self._placed[key].edit.site)
                if id(parameter) in held:
                    overwrite(parameter, change(whole(parameter.detach())))
        if self._is_waiting and self._taken and self._all_taken(optimizer):
            for mask in self._dense:
                mask.enabled = True
            self._is_waiting = False
            self._arrived()

    def _all_taken(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether no step of another optimizer is to come."""
        held = _ids_of(optimizer)
        parameters = {mask.edit.key: self._parameter(mask.edit.site) for mask in self._dense}
        return all(key in self._taken for key, p in parameters.items() if id(p) not in held and p.grad is not None)


def _ids_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
