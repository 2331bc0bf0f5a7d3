"""NNCF 2.x's marks for code that its tracing should treat in a special way, with what they mean here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

from nncf_ext_torch.torch_private import without_function_modes

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def no_nncf_trace() -> Iterator[None]:
    """Operators inside are no part of the graph: nothing is placed on them, now or in training.

    >>> class Network(torch.nn.Linear):
    ...     def forward(self, x):
    ...         with no_nncf_trace():
    ...             x = x.softmax(-1)
    ...         return super().forward(x)
    >>> config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": {"algorithm": "quantization"}})
    >>> [layer.operator for layer in preview_compression(Network(4, 2), config).layers]
    ['Gemm']
    """
    with without_function_modes():
        yield


@contextlib.contextmanager
def forward_nncf_trace() -> Iterator[None]:
    """Nothing: operators are traced everywhere but in `no_nncf_trace`."""
    yield


@contextlib.contextmanager
def disable_patching() -> Iterator[None]:
    """Nothing: no function of torch is patched."""
    yield


def disable_tracing(method: Function) -> Function:
    """A function whose operators are no part of the graph."""

    @functools.wraps(method)
    def untraced(*args: Any, **kwargs: Any) -> Any:
        with no_nncf_trace():
            return method(*args, **kwargs)

    return untraced  # type: ignore[return-value]


def register_operator(name: str | None = None) -> Callable[[Function], Function]:
    """Decorator: the function is one operator of the graph, opaque, instead of those inside it."""

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def operator(*args: Any, **kwargs: Any) -> Any:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            if has_torch_function(tensors):
                return handle_torch_function(operator, tensors, *args, **kwargs)
            with without_function_modes():
                return function(*args, **kwargs)

        operator.__name__ = name or function.__name__
        return operator  # type: ignore[return-value]

    return register


def register_module(*ignored_algorithms: str, **settings: Any) -> Callable[[T], T]:
    """Decorator of a module class with weights, which NNCF had to be told of. It does nothing: all modules are traced."""
    return lambda module_class: module_class


def nncf_model_input(tensor: T) -> T:
    """The tensor itself: the model's inputs are known from the call."""
    return tensor


def nncf_model_output(tensor: T) -> T:
    """The tensor itself: the model's outputs are known from the call."""
    return tensor
