"""Reports of training forwards of a compressed model: inputs, outputs, and tensors that passed sites."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nncf_ext.graph import Site
from nncf_ext_torch.module_classes import EDITS, edited_modules, install
from nncf_ext_torch.sites import module_edits
from nncf_ext_torch.torch_private import remove_forward_hooks
from nncf_ext_torch.trace import ExampleInput, TorchTrace

AfterForward = Callable[[Any, Any, Mapping[Site, Any]], None]


class _Look:
    """A step that keeps its tensor of the last training forward. A copy has none: tensors with a history cannot be copied."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.tensor: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        if training:
            self.tensor = x
        return x

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tensor": None}


class _Tap:
    """A forward hook that reports training forwards. Copies of the model do not report."""

    def __init__(self, looks: Sequence[_Look] = (), after_forward: AfterForward | None = None) -> None:
        self.looks, self.after_forward = looks, after_forward

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.after_forward is not None and model.training:
            passed = {look.site: look.tensor for look in self.looks if look.tensor is not None}
            for look in self.looks:
                look.tensor = None
            self.after_forward(ExampleInput(args, kwargs), output, passed)

    def __reduce__(self) -> Any:
        return _Tap, ()


def tap(model: nn.Module, traced: TorchTrace, sites: Collection[Site], after_forward: AfterForward) -> None:
    """See `nncf_ext.adapter.Adapter.tap`."""
    remove_tap(model)
    looks = [_Look(site) for site in sites]
    if looks:
        there = {name: vars(module)[EDITS] for name, module in model.named_modules() if EDITS in vars(module)}
        edits = module_edits(model, traced, {look.site: (look,) for look in looks}, there)
        for known in there.values():
            known.tables.clear()
        install(model, {name: new for name, new in edits.items() if name not in there})
    model.register_forward_hook(_Tap(looks, after_forward), with_kwargs=True)


def remove_tap(model: nn.Module) -> None:
    remove_forward_hooks(model, _Tap)
    for module, edits in list(edited_modules(model)):
        steps = list(edits.steps())
        if any(isinstance(step, _Look) for step in steps):
            vars(module)[EDITS] = edits.with_steps({step: step for step in steps if not isinstance(step, _Look)})
