"""The only module that touches PyTorch's private names. Written for PyTorch 2.13.

Of nn.Module, `_parameters`, `_buffers` and `_modules` are read and written elsewhere too: they are what its subclasses everywhere
rely on, and no public function tells what is registered as None, or writes past `__setattr__`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # noqa: F401  (the classes are part of this module's interface)
from torch.nn.modules.batchnorm import _NormBase as NormWithStatistics  # noqa: F401
from torch.nn.modules.conv import _ConvNd as Convolution  # noqa: F401
from torch.nn.modules.conv import _ConvTransposeNd as TransposedConvolution  # noqa: F401
from torch.nn.modules.dropout import _DropoutNd as Dropout  # noqa: F401
from torch.nn.utils import prune
from torch.overrides import _get_current_function_mode_stack as function_modes  # noqa: F401
from torch.utils import _pytree as pytree  # noqa: F401
from torch.utils.checkpoint import _CheckpointFrame as CheckpointFrame  # noqa: F401

is_tracing = torch._C._is_tracing  # by `torch.jit.trace`
without_function_modes = torch._C.DisableTorchFunction  # context: a function mode around does not see what is called
to_copy = torch.ops.aten._to_copy.default  # the operator of `Tensor.to`


# Tensors and autodiff ---------------------------------------------------------------------------------------------------


def in_transform() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp) is at work: tensors have no memory that a kernel could read then."""
    return not torch.compiler.is_compiling() and _functorch.peek_interpreter_stack() is not None


def version_of(tensor: Tensor) -> int:
    """How often somebody wrote into `tensor`."""
    return tensor._version


def base_of(tensor: Tensor) -> Tensor:
    """What `tensor` is a view of; itself where it is none."""
    return tensor if tensor._base is None else tensor._base


def keeps_result(function: Any) -> bool:
    """Whether an operator (a tensor's `grad_fn`) keeps its own result for the backward pass."""
    return hasattr(type(function), "_saved_result")


def keeps_saved_tensors_otherwise() -> bool:
    """Whether the code runs within somebody's `saved_tensors_hooks`."""
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(False)  # pyright: ignore[reportAttributeAccessIssue]
    return hooks is not None


def is_dispatch_watched() -> bool:
    """Whether a `TorchDispatchMode` sees the operators that are called."""
    return bool(torch._C._len_torch_dispatch_stack())


@contextmanager
def tracing_paused() -> Iterator[None]:
    """What is computed here is a constant of the graph that `torch.jit.trace` makes."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


# Modules ----------------------------------------------------------------------------------------------------------------


def forward_pre_hooks(module: nn.Module) -> MutableMapping[int, Callable[..., Any]]:
    """The hooks before the module's forward by their keys; others may take their places."""
    return module._forward_pre_hooks


def remove_forward_hooks(module: nn.Module, kind: type) -> None:
    """Remove the forward hooks of a kind, which may be a copy's, so that there are no handles."""
    for key, hook in list(module._forward_hooks.items()):
        if isinstance(hook, kind):
            module._forward_hooks.pop(key)
            module._forward_hooks_with_kwargs.pop(key, None)


def pruned_name(hook: prune.BasePruningMethod) -> str:
    """The name of the weight that a hook of `torch.nn.utils.prune` computes."""
    return hook._tensor_name


def has_one_width(module: nn.MultiheadAttention) -> bool:
    """Whether queries, keys and values have the same sizes, and one weight for all three."""
    return module._qkv_same_embed_dim


def is_managed_by_fsdp(module: nn.Module) -> bool:
    return getattr(module, "_is_fsdp_managed_module", False)


def averages_buffers(callback: Any) -> bool:
    """Whether a callback of Lightning averages a model's buffers as it does its parameters."""
    return getattr(callback, "_use_buffers", False)


def state_dict_methods(base: type[nn.Module], saving: Callable[[nn.Module], None], loaded: Callable[[nn.Module], None]) -> Any:
    """For the namespace of a subclass of `base`: `saving` is called before state is saved, `loaded` after it was loaded."""

    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        saving(self)
        return base._save_to_state_dict(self, *args, **kwargs)

    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = base._load_from_state_dict(self, *args, **kwargs)
        loaded(self)
        return result

    return {"_save_to_state_dict": save, "_load_from_state_dict": load}


# Recurrent layers keep a list of their parameters, with which they compute, beside the attributes ------------------------


def list_parameters_anew(layer: nn.RNNBase) -> None:
    """After some of the layer's parameters were replaced."""
    layer._init_flat_weights()


def _flat_weights(self: nn.RNNBase) -> list[Tensor | None]:
    """The list as the attributes are read now."""
    kept: list[Tensor | None] = vars(self)["_flat_weights"]
    if len(kept) != len(self._flat_weights_names):  # while the layer is being made
        return kept
    return [getattr(self, name, None) for name in self._flat_weights_names]


def _set_flat_weights(self: nn.RNNBase, value: list[Tensor | None]) -> None:
    names = self._flat_weights_names
    vars(self)["_flat_weights"] = [self._parameters.get(name) for name in names] if len(value) == len(names) else value


def _leave_as_they_are(self: nn.RNNBase) -> None:
    """In place of `flatten_parameters`, which moves weights into one piece of memory for cuDNN: transformed ones are new ones."""


# For the namespace of a subclass of a recurrent layer: it computes with what its attributes are when it is called.
computing_with_attributes: dict[str, Any] = {
    "_flat_weights": property(_flat_weights, _set_flat_weights),
    "flatten_parameters": _leave_as_they_are,
}


# `torch.compile` ----------------------------------------------------------------------------------------------------------

_INSIDE, _CALL = "_orig_mod", "_compiled_call_impl"


def compiled_in(module: nn.Module) -> nn.Module | None:
    """What `torch.compile` was given, where it made `module` of it."""
    inside = module._modules  # of a ScriptModule, no dict
    return inside[_INSIDE] if _INSIDE in inside else None  # noqa: SIM401


def is_call_compiled(module: nn.Module) -> bool:
    """Whether `module.compile` was called."""
    return vars(module).get(_CALL) is not None


@contextmanager
def calls_not_compiled(modules: list[nn.Module]) -> Iterator[None]:
    """For the time being `module.compile` was not called on any of `modules`."""
    taken = [(module, vars(module).pop(_CALL)) for module in modules if is_call_compiled(module)]
    try:
        yield
    finally:
        for module, call in taken:
            vars(module)[_CALL] = call
