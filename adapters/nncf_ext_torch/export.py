"""A compressed model as an ONNX graph in which every quantizer is one marker node."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from nncf_ext.export.marked import DOMAIN, MARKER
from nncf_ext_torch.apply import Applied, TorchAttached
from nncf_ext_torch.module_classes import edited_modules
from nncf_ext_torch.trace import ExampleInput, evaluating, on_device_of

OPSET = 18  # the exporter's own; ONNX Runtime 1.32 cannot load its QuantizeLinear from 21 on
_NOISY = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")


def export_marked(
    attached: TorchAttached,
    example: ExampleInput | Callable[[nn.Module], Any],
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> Any:
    """The model in inference mode as an `onnx_ir.Model`; masks are applied, quantizers are markers with their edit's key.

    The first axis is the batch and of any size, where all inputs have the same and the model allows it.
    """
    model = attached.model
    given = on_device_of(model, example) if isinstance(example, ExampleInput) else _arguments(model, example)
    args, kwargs, shapes = _with_free_batch(model, tuple(given.args), dict(given.kwargs))
    with _marked(attached), evaluating(model), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model,
            args,
            kwargs=kwargs,
            input_names=input_names,
            output_names=output_names,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model


class _Marker:
    """Stands in for a quantizer's edit while the model is traced."""

    def __init__(self, key: str) -> None:
        self.key = key

    def apply(self, xp: Any, x: torch.Tensor, variables: Any, training: bool) -> torch.Tensor:
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{MARKER}", (x,), {"key": self.key}, dtype=x.dtype, shape=x.shape, version=1)


class _Known:
    """Stands in for another edit of a parameter: the tensor that it makes is a constant of the file."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def apply(self, xp: Any, x: torch.Tensor, variables: Any, training: bool) -> torch.Tensor:
        return self.value


@contextmanager
def _marked(attached: TorchAttached) -> Iterator[None]:
    placed = [attached._of(edit) for edit in attached.plan]
    edits = [applied.edit for applied in placed]
    known = _known(attached.model)
    try:
        for applied, edit in zip(placed, edits, strict=True):
            stand_in: Any = _Marker(edit.key) if edit.transform.has_grid else known.get(applied, edit)
            applied.edit = stand_in
        yield
    finally:
        for applied, edit in zip(placed, edits, strict=True):
            applied.edit = edit


def _known(model: nn.Module) -> dict[Applied, _Known]:
    """For edits of parameters what they make, in inference."""
    found: dict[Applied, _Known] = {}
    with torch.no_grad():
        for module, edits in edited_modules(model):
            for name, steps in edits.parameters.items():
                value: torch.Tensor | None = module._parameters[name]
                for step in steps:
                    assert value is not None
                    value = step(value, False)
                    if isinstance(step, Applied) and not step.edit.transform.has_grid:
                        found[step] = _Known(value)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own noise: missing torchvision, constants it could not fold, what torch itself deprecates."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec|.*_check_is_size", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*_flat_weights", category=UserWarning)  # of torch's own RNNs
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _arguments(model: nn.Module, forward: Callable[[nn.Module], Any]) -> ExampleInput:
    """What a `dummy_forward_fn` calls the model with."""
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


def _with_free_batch(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any] | None]:
    """Arguments with a batch of at least two (a size of one would be taken for a constant), and which axes are free."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in tensors}
    if len(sizes) != 1 or None in sizes:
        return args, kwargs, None

    def doubled(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.shape[0] == 1 else leaf

    def free(leaf: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(leaf, torch.Tensor) else None

    args, kwargs = pytree.tree_map(doubled, (args, kwargs))
    named: Mapping[str, Any] = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    variadic = {p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is p.VAR_KEYWORD}
    flat = {name: value for name, value in named.items() if name not in variadic}
    for name in variadic & set(named):
        flat.update(named[name])
    return args, kwargs, {name: pytree.tree_map(free, value) for name, value in flat.items()}
