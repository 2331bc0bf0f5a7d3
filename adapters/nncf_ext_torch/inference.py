"""Running a model in inference mode, with a look at the tensors that pass its sites. It is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from nncf_ext.adapter import Inference, Looks
from nncf_ext.edits import Edit
from nncf_ext.graph import Site
from nncf_ext_torch.apply import applied_in
from nncf_ext_torch.module_classes import install, uninstall
from nncf_ext_torch.sites import module_edits
from nncf_ext_torch.torch_private import without_function_modes
from nncf_ext_torch.trace import ExampleInput, TorchTrace, evaluating, on_device_of

_ATTRIBUTE = "_nncf_ext_observed"


class _Look:
    """A step that keeps what a function makes of its tensor, and passes that on."""

    def __init__(self, site: Site, function: Callable[[torch.Tensor], Any], seen: dict[Site, Any]) -> None:
        self.site, self.function, self.seen = site, function, seen

    def __call__(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        with without_function_modes():
            self.seen[self.site] = self.function(x.detach())
        return x


def run(model: nn.Module, inputs: Any) -> Any:
    """One forward of `model` on a batch: an ExampleInput, a dict of keyword arguments, a sequence of arguments, or the one; or as
    a function that is given the model does it."""
    if isinstance(inputs, ExampleInput):
        inputs = on_device_of(model, inputs)
        return model(*inputs.args, **inputs.kwargs)
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return inputs(model) if callable(inputs) else model(inputs)


def inference(model: nn.Module, traced: TorchTrace | None, sites: Looks, off: Collection[Edit]) -> Inference:
    """See `nncf_ext.adapter.Adapter.inference`."""

    def infer(inputs: Any) -> tuple[Any, dict[Site, Any]]:
        with evaluating(model), torch.no_grad():
            return run(model, inputs), {}

    if not sites and not off:
        return infer
    assert traced is not None
    seen: dict[Site, Any] = {}
    edits = module_edits(model, traced, {site: (_Look(site, function, seen),) for site, function in sites.items()})
    keys = {edit.key for edit in off}
    steps = [step for step in applied_in(model) if step.edit.key in keys]

    def looked_at(inputs: Any) -> tuple[Any, dict[Site, Any]]:
        working = [step for step in steps if step.enabled]
        try:
            for step in working:
                step.enabled = False
            install(model, edits, _ATTRIBUTE)
            return infer(inputs)[0], dict(seen)
        finally:
            uninstall(model, _ATTRIBUTE)
            for step in working:
                step.enabled = True
            seen.clear()

    apart: Any = torch.compiler.disable(looked_at)  # classes are swapped
    return apart
