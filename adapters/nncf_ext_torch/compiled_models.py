"""Models that `torch.compile` was given, or some of their modules: it returns a module around, or compiles the calls in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.module_classes import EDITS
from nncf_ext_torch.torch_private import calls_not_compiled, compiled_in, is_call_compiled


def model_in(model: nn.Module) -> nn.Module:
    """What `torch.compile` was given, where `model` is what it made of it: all that can be compressed is in there."""
    inside = compiled_in(model)
    return model if inside is None else inside


def run_by_python(model: nn.Module) -> AbstractContextManager[Any]:
    """For the time being nothing in `model` is compiled: modes and hooks are to see what it calls."""
    if not any(compiled_in(module) is not None or is_call_compiled(module) for module in model.modules()):
        return nullcontext()  # without it the compiler need not be imported
    return torch.compiler.set_stance("force_eager")


@contextmanager
def not_compiled(model: nn.Module) -> Iterator[None]:
    """The same for exporters, which compile themselves."""
    taken: list[tuple[dict[str, Any], Any]] = []
    for module in model.modules():
        inside = compiled_in(module)
        if inside is not None:
            edits = vars(module).get(EDITS)
            holder = vars(module if edits is None else edits)
            taken.append((holder, holder["forward"]))
            holder["forward"] = inside
    try:
        with calls_not_compiled(list(model.modules())):
            yield
    finally:
        for holder, forward in taken:
            holder["forward"] = forward
