"""Looking at the tensors that pass sites of a model, which is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from nncf_ext.graph import Site
from nncf_ext_torch.computed_weights import weight
from nncf_ext_torch.module_classes import install, uninstall
from nncf_ext_torch.sites import module_edits, parameter_name
from nncf_ext_torch.trace import ExampleInput, TorchTrace, evaluating, on_device_of

_ATTRIBUTE = "_nncf_ext_observed"


class _Visit:
    """A step that shows its tensor and passes it on."""

    def __init__(self, site: Site, visit: Callable[[Site, Any], None]) -> None:
        self.site = site
        self.visit = visit

    def __call__(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            self.visit(self.site, x.detach())
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


def watching(
    model: nn.Module, traced: TorchTrace, sites: Iterable[Site]
) -> Callable[[Any], tuple[Any, dict[Site, torch.Tensor]]]:
    """The function that runs a plain `model` in inference mode: inputs -> (outputs, the tensors that pass `sites` meanwhile)."""
    seen: dict[Site, torch.Tensor] = {}
    edits = module_edits(model, traced, {site: (_Visit(site, seen.__setitem__),) for site in sites})

    def watched(inputs: Any) -> tuple[Any, dict[Site, torch.Tensor]]:
        with evaluating(model), torch.no_grad():
            install(model, edits, _ATTRIBUTE)
            try:
                return run(model, inputs), dict(seen)
            finally:
                uninstall(model, _ATTRIBUTE)
                seen.clear()

    apart: Any = torch.compiler.disable(watched)  # classes are swapped
    return apart


def observe(
    model: nn.Module, traced: TorchTrace, sites: Iterable[Site], batches: Iterable[Any], visit: Callable[[Site, Any], None]
) -> None:
    """Call `visit(site, tensor)` for each activation at `sites` while `batches` run, and once for each parameter.

    The tensors share memory with the model's: copy what has to last. In a compressed model a tensor is seen before or after its
    own transform, depending on where that sits: disable the edits whose untransformed tensor is wanted.
    """
    wanted = tuple(sites)
    activations = {site: (_Visit(site, visit),) for site in wanted if not site.is_parameter}
    edits = module_edits(model, traced, activations)
    with evaluating(model), torch.no_grad():
        for site in wanted:
            if site.is_parameter:
                visit(site, weight(model, parameter_name(traced, site)).detach())
        install(model, edits, _ATTRIBUTE)
        try:
            for inputs in batches:
                run(model, inputs)
        finally:
            uninstall(model, _ATTRIBUTE)
