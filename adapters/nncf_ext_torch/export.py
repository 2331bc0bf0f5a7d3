"""A compressed model as an ONNX graph in which every quantizer is one marker node."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from nncf_ext.export.marked import DOMAIN, MARKER
from nncf_ext_torch.apply import Applied, TorchAttached, detach, make_plain
from nncf_ext_torch.arguments import by_argument, call_of, in_order, named_inputs, resized
from nncf_ext_torch.compiled_models import not_compiled
from nncf_ext_torch.computed_weights import computed_in, copied
from nncf_ext_torch.detectors import detectors_without_branches
from nncf_ext_torch.module_classes import edited_modules
from nncf_ext_torch.recurrent import projected_layer
from nncf_ext_torch.torch_private import forward_pre_hooks, pytree, without_function_modes
from nncf_ext_torch.trace import ExampleInput, evaluating, leaves, on_device_of

OPSET = 18  # the exporter's own; ONNX Runtime 1.32 cannot load its QuantizeLinear from 21 on
_CAST = (torch.float16, torch.bfloat16, torch.float64)  # ONNX's quantizers, or ONNX Runtime's operators, lack them
_NOISY = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")


def export_marked(
    attached: TorchAttached,
    example: ExampleInput | Callable[[nn.Module], Any],
    free: Mapping[str, Mapping[int, str]],
    marked: Collection[str],
) -> Any:
    """The model in inference mode as an `onnx_ir.Model`; masks are applied, the edits `marked` are markers with their key.

    The first axis is the batch and of any size, where all inputs have the same and the model allows it. Inputs are named as
    `named_inputs` does, outputs by their keys; what holds no tensors (a cache) is left out.
    """
    model = attached.model
    projected = projected_layer(model)
    if projected is not None:
        raise ValueError(f"{projected}: found an LSTM with proj_size, expected one without: ONNX's LSTM has no projection")
    call = in_order(model, on_device_of(model, call_of(model, example)))
    for hook in forward_pre_hooks(model).values():
        if isinstance(hook, _InputsInFloat32):
            call = ExampleInput(*hook(model, call.args, dict(call.kwargs)))
    call = _with_free_sizes(model, call, free)
    with evaluating(model), torch.no_grad():  # what a first forward with these sizes keeps for later (anchors) is a constant
        model(*call.args, **call.kwargs)
    outputs: list[str] = []
    axes = _free_axes(model, call, free)
    try:
        with (
            _marked(attached, marked),
            _flat_outputs(model, outputs),
            evaluating(model),
            torch.no_grad(),
            _quiet(),
            detectors_without_branches(),
        ):
            program = _exported(_Caller(model) if isinstance(model, torch.fx.GraphModule) else model, call, axes)
    except torch.onnx.OnnxExporterError as error:
        _refuse_where_float_fails(attached, call, axes, error)
        raise
    graph = program.model.graph
    for value, name in zip(graph.inputs, named_inputs(model, call), strict=True):
        value.name = name
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    return program.model


@contextmanager
def _exporting(model: nn.Module) -> Iterator[None]:
    with evaluating(model), torch.no_grad(), _quiet(), detectors_without_branches():
        yield


def _exported(model: nn.Module, call: ExampleInput, axes: Mapping[str, Any]) -> Any:
    return torch.onnx.export(
        model,
        tuple(call.args),
        kwargs=dict(call.kwargs),
        opset_version=OPSET,
        dynamic_shapes=dict(axes),
        dynamo=True,
        verbose=False,
    )


def _refuse_where_float_fails(attached: TorchAttached, call: ExampleInput, axes: Mapping[str, Any], error: BaseException) -> None:
    """ValueError where the model cannot be exported without its edits either."""
    plain = copied(attached, attached.model).model
    detach(plain)
    try:
        with _exporting(plain):
            _exported(plain, call, axes)
    except torch.onnx.OnnxExporterError:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = (str(cause).strip().splitlines() or [""])[0]
        raise ValueError(
            f"torch.onnx cannot export {type(plain).__name__}, not even without compression ({type(cause).__name__}: {said}): "
            "expected a model that it can export; of a detector, compress the part in front of its post-processing"
        ) from error


class _Caller(nn.Module):
    """Calls `model`, a `GraphModule`: given one itself, `torch.export` runs its graph, past the forward and what is around it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.training = model, model.training
        self.forward: Any = lambda *args, **kwargs: model(*args, **kwargs)
        self.forward.__signature__ = inspect.signature(model.forward)


@contextmanager
def in_float32(attached: TorchAttached) -> Iterator[TorchAttached]:
    """The compressed model with float32 weights that its layers do not compute (a copy where it has others), without autocast and
    compiled calls around it."""
    with ExitStack() as stack:
        for device in {parameter.device.type for parameter in attached.model.parameters()} - {"meta"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_plain_forwards(attached.model))
        of_other_types = any(parameter.dtype in _CAST for parameter in attached.model.parameters())
        if of_other_types or computed_in(attached.model):
            attached = copied(attached, attached.model)
            make_plain(attached.model)
        if of_other_types:
            attached.model.float()
            attached.model.register_forward_pre_hook(_InputsInFloat32(), prepend=True, with_kwargs=True)
        stack.enter_context(not_compiled(attached.model))
        yield attached


@contextmanager
def _plain_forwards(model: nn.Module) -> Iterator[None]:
    """Without what stands around a module's forward on the instance (autocast: Accelerate's `prepare`, Trainer with bf16):
    the file has the arithmetic of the class."""
    taken: list[tuple[nn.Module, Any]] = []
    for module in model.modules():
        own = vars(module).get("forward")
        if own is not None and type(module).forward in _wrapped_by(own):
            taken.append((module, vars(module).pop("forward")))
    try:
        yield
    finally:
        for module, forward in taken:
            vars(module)["forward"] = forward


class _InputsInFloat32:
    """Casts the inputs of a model whose weights were cast."""

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        return pytree.tree_map_only(torch.Tensor, lambda x: x.float() if x.dtype in _CAST else x, (args, kwargs))


def _wrapped_by(function: Any) -> Iterator[Any]:
    """The functions that decorators have around each other, from the outermost to the innermost."""
    while function is not None:
        function = getattr(function, "__func__", function)
        yield function
        function = getattr(function, "__wrapped__", None)


@contextmanager
def _flat_outputs(model: nn.Module, names: list[str]) -> Iterator[None]:
    """The model returns a tuple of the tensors in its outputs, and `names` becomes their names."""

    def flat(_: nn.Module, args: Any, output: Any) -> tuple[torch.Tensor, ...]:
        found = list(leaves(output))
        names[:] = [_output_name(path) for path, _ in found]
        return tuple(tensor for _, tensor in found)

    hook = model.register_forward_hook(flat)
    try:
        yield
    finally:
        hook.remove()


def _output_name(path: tuple[int | str, ...]) -> str:
    named = path if path and isinstance(path[0], str) else ("output", *path)
    return "_".join(map(str, named))


def _marker(key: str, x: torch.Tensor, training: bool) -> torch.Tensor:
    """Stands in for a quantizer's edit while the model is traced."""
    with without_function_modes():
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{MARKER}", (x,), {"key": key}, dtype=x.dtype, shape=x.shape, version=1)


def _known(value: torch.Tensor, x: torch.Tensor, training: bool) -> torch.Tensor:
    """Stands in for another edit of a parameter: the tensor that it makes is a constant of the file."""
    return value if value.dtype == x.dtype else value.to(x.dtype)


@contextmanager
def _marked(attached: TorchAttached, marked: Collection[str]) -> Iterator[None]:
    placed = [attached._of(edit) for edit in attached.plan]
    known = _known_values(attached.model, marked)
    try:
        for applied in placed:
            if applied.edit.key in marked:
                applied.stand_in = partial(_marker, applied.edit.key)
            elif applied in known:
                applied.stand_in = partial(_known, known[applied])
        yield
    finally:
        for applied in placed:
            applied.stand_in = None


def _known_values(model: nn.Module, marked: Collection[str]) -> dict[Applied, torch.Tensor]:
    """For edits of parameters, but those with keys in `marked`, what they make in inference."""
    found: dict[Applied, torch.Tensor] = {}
    with torch.no_grad():
        for module, edits in edited_modules(model):
            for name, steps in edits.parameters.items():
                value: torch.Tensor | None = module._parameters[name]
                for step in steps:
                    assert value is not None
                    value = step(value, False)
                    if isinstance(step, Applied) and step.edit.key not in marked:
                        found[step] = value
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


def _with_free_sizes(model: nn.Module, call: ExampleInput, free: Mapping[str, Mapping[int, str]]) -> ExampleInput:
    """The call with sizes of at least two at free axes: one would be taken for a constant."""
    shapes = {name: tensor.shape for name, tensor in named_inputs(model, call).items()}
    small = {
        name: {axis: 2 for axis in {*free.get(name, {}), *((0,) if _has_batch(call) else ())} if shape[axis] == 1}
        for name, shape in shapes.items()
    }
    return resized(model, call, small) if any(small.values()) else call


def _has_batch(call: ExampleInput) -> bool:
    """Whether all inputs have the same size in the first axis; what is in a list is a sample by itself."""
    if any(isinstance(value, list) for value in (*call.args, *call.kwargs.values())):
        return False
    tensors = [leaf for leaf in pytree.tree_leaves((call.args, dict(call.kwargs))) if isinstance(leaf, torch.Tensor)]
    return len({tensor.shape[0] if tensor.ndim else None for tensor in tensors} | {None for t in tensors if not t.ndim}) == 1


def _free_axes(model: nn.Module, call: ExampleInput, free: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
    """For torch.export: by argument, in its structure, which axes of the tensors are free."""
    axes = {id(tensor): {*free.get(name, {})} for name, tensor in named_inputs(model, call).items()}
    batch = {0} if _has_batch(call) else set()

    def of(leaf: Any) -> Any:
        return dict.fromkeys(sorted(axes[id(leaf)] | batch), torch.export.Dim.AUTO) if isinstance(leaf, torch.Tensor) else None

    return {name: pytree.tree_map(of, value) for name, value in by_argument(model, call).items()}
