"""Models that `torch.compile` was given, or some of their modules: it returns a module around, or compiles the calls in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.module_classes import EDITS

_INSIDE = "_orig_mod"


def model_in(model: nn.Module) -> nn.Module:
    """What `torch.compile` was given, where `model` is what it made of it: all that can be compressed is in there."""
    inside = model._modules.get(_INSIDE)
    return model if inside is None else inside


def run_by_python(model: nn.Module) -> AbstractContextManager[Any]:
    """For the time being nothing in `model` is compiled: modes and hooks are to see what it calls."""
    if not any(_INSIDE in module._modules or _compiled_call(module) is not None for module in model.modules()):
        return nullcontext()  # without it the compiler need not be imported
    return torch.compiler.set_stance("force_eager")


@contextmanager
def not_compiled(model: nn.Module) -> Iterator[None]:
    """The same for exporters, which compile themselves."""
    taken: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        if _compiled_call(module) is not None:
            taken.append((vars(module), "_compiled_call_impl", vars(module).pop("_compiled_call_impl")))
        if _INSIDE in module._modules:
            edits = vars(module).get(EDITS)
            holder = vars(module if edits is None else edits)
            taken.append((holder, "forward", holder["forward"]))
            holder["forward"] = module._modules[_INSIDE]
    try:
        yield
    finally:
        for holder, name, value in taken:
            holder[name] = value


def _compiled_call(module: nn.Module) -> Any:
    return vars(module).get("_compiled_call_impl")
