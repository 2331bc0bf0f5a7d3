"""Weights that a layer computes from other parameters: by torch's parametrizations, or by hooks before its forward (weight_norm,
spectral_norm, prune).

Transforms see what the layer computes with, and gradients go on through the computation. A stripped or exported model has that
tensor as a parameter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from nncf_ext_torch.torch_private import forward_pre_hooks, pruned_name

T = TypeVar("T")


class Computed(NamedTuple):
    """made_by: in words. source: the names, in the layer, of the parameters it is made of. hook: what makes it, if no
    parametrization. value: the tensor, as it is in inference. plain: takes the computation out of the layer."""

    made_by: str
    source: tuple[str, ...]
    hook: Callable[..., Any] | None
    value: Callable[[nn.Module], torch.Tensor]
    plain: Callable[[nn.Module], Any]

    def is_trained(self, module: nn.Module) -> bool:
        return any(module.get_parameter(name).requires_grad for name in self.source)


def computed(module: nn.Module) -> dict[str, Computed]:
    """The weights that `module` itself computes, by their names in it."""
    found = dict(_hooked(module))
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        found |= {name: _parametrized(name, lists[name]) for name in lists}
    return found


def computed_in(model: nn.Module) -> dict[str, tuple[nn.Module, str, Computed]]:
    """The weights that layers of `model` compute, by full name: the layer, the name in it, and how."""
    return {
        f"{path}.{name}".lstrip("."): (module, name, how)
        for path, module in model.named_modules()
        for name, how in computed(module).items()
    }


def raw(module: nn.Module, name: str) -> torch.Tensor:
    """The weight before any transform: a parameter, or what the layer computes in inference, attached to autodiff."""
    value = module._parameters[name] if name in module._parameters else computed(module)[name].value(module)
    assert value is not None
    return value


def weight(model: nn.Module, full_name: str) -> torch.Tensor:
    """As `raw`, of the layer that has it."""
    path, _, name = full_name.rpartition(".")
    return raw(model.get_submodule(path), name)


def copied(value: T, model: nn.Module) -> T:
    """`copy.deepcopy`, where `model` is a part of `value`: what hooks left behind has a history, of which copies get none."""
    left = [tensor for module in model.modules() for tensor in vars(module).values() if isinstance(tensor, torch.Tensor)]
    memo: Any = {id(tensor): tensor.detach().clone() for tensor in left if not tensor.is_leaf}
    return copy.deepcopy(value, memo)


def _parametrized(name: str, made: Any) -> Computed:
    def value(module: nn.Module) -> torch.Tensor:
        modes = [(part, part.training) for part in made.modules()]
        made.eval()  # spectral norm takes a step of its iteration in training
        try:
            tensor: torch.Tensor = made()
            return tensor
        finally:
            for part, training in modes:
                part.training = training

    kinds = ", ".join(type(part).__name__.lstrip("_") for part in made)
    source = tuple(f"parametrizations.{name}.{own}" for own, _ in made.named_parameters())
    return Computed(f"its parametrization {kinds}", source, None, value, lambda module: _unparametrize(module, name))


def _unparametrize(module: nn.Module, name: str) -> None:
    """Torch's own `remove_parametrizations` takes the property out of the class, which copies of the module have, too."""
    lists: Any = module.parametrizations
    del lists[name]
    if not len(lists):
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]


def _hooked(module: nn.Module) -> Iterator[tuple[str, Computed]]:
    for hook in forward_pre_hooks(module).values():
        if isinstance(hook, WeightNorm):
            name = hook.name
            source, value, remove = (f"{name}_g", f"{name}_v"), hook.compute_weight, remove_weight_norm
        elif isinstance(hook, SpectralNorm):
            name = hook.name
            source, remove = (f"{name}_orig",), remove_spectral_norm
            value = _without_iteration(hook)
        elif isinstance(hook, prune.BasePruningMethod):
            name = pruned_name(hook)
            source, value, remove = (f"{name}_orig",), hook.apply_mask, prune.remove
        else:
            continue
        yield name, Computed(f"the hook {type(hook).__name__}", source, hook, value, _removed_by(remove, name))


def _without_iteration(hook: Any) -> Callable[[nn.Module], torch.Tensor]:
    return lambda module: hook.compute_weight(module, do_power_iteration=False)


def _removed_by(remove: Callable[[nn.Module, str], Any], name: str) -> Callable[[nn.Module], Any]:
    return lambda module: remove(module, name)
