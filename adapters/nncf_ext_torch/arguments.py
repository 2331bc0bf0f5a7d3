"""What a model is called with, by the names of its forward's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.torch_private import pytree
from nncf_ext_torch.trace import ExampleInput, evaluating, leaves


def call_of(model: nn.Module, inputs: Any) -> ExampleInput:
    """The arguments of `model` that stand for `inputs`: an ExampleInput, a dict of keyword arguments, a sequence of arguments or
    the one; or a function that is given the model and calls it, which is run for it. ValueError where that does not call it."""
    if isinstance(inputs, ExampleInput):
        return inputs
    if isinstance(inputs, dict):
        return ExampleInput((), inputs)
    if isinstance(inputs, list | tuple):
        return ExampleInput(tuple(inputs))
    return _caught(model, inputs) if callable(inputs) else ExampleInput((inputs,))


def _caught(model: nn.Module, forward: Callable[[nn.Module], Any]) -> ExampleInput:
    seen: list[ExampleInput] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(ExampleInput(args, kwargs)), with_kwargs=True)
    try:
        with evaluating(model), torch.no_grad():
            forward(model)
    finally:
        hook.remove()
    if not seen:
        raise ValueError("dummy_forward_fn did not call the model: expected one forward, whose inputs the export takes")
    return seen[0]


def by_argument(model: nn.Module, call: ExampleInput) -> dict[str, Any]:
    """The arguments of `call` by their names, in the order of the forward's."""
    signature = inspect.signature(model.forward)
    arguments = dict(signature.bind_partial(*call.args, **call.kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return arguments


def in_order(model: nn.Module, call: ExampleInput) -> ExampleInput:
    """The same call with its keyword arguments in the order of the forward's."""
    return ExampleInput(call.args, {name: call.kwargs[name] for name in by_argument(model, call) if name in call.kwargs})


def named_inputs(model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    """The tensors in a batch as `call_of` takes it, by the name of the argument and, inside of it, the items."""
    return {".".join(map(str, path)): tensor for path, tensor in leaves(by_argument(model, call_of(model, inputs)))}


def resized(model: nn.Module, inputs: Any, sizes: Mapping[str, Mapping[int, int]]) -> ExampleInput:
    """The same call with tensors of other sizes: by name, axis -> size. What is longer than before begins again at the start."""
    call = call_of(model, inputs)
    changed: dict[int, torch.Tensor] = {}
    for name, tensor in named_inputs(model, call).items():
        x = tensor
        for axis, size in sizes.get(name, {}).items():
            x = x.index_select(axis, torch.arange(size, device=x.device) % x.shape[axis])
        changed[id(tensor)] = x
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: changed.get(id(x), x), (call.args, dict(call.kwargs)))
    return ExampleInput(args, kwargs)
