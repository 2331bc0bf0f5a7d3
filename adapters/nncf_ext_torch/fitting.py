"""Sizes that only a model's own code knows, found by running it.

A forward that splits, reshapes or broadcasts with sizes of its own fails where channels have left. In the modules that it fails
in, whole numbers and per-channel tensors of the old size get the new one; what brings the forward further, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nncf_ext.channels.shrinking import Changes
from nncf_ext_torch.cut import Cut
from nncf_ext_torch.trace import TorchTrace, evaluating, forward, leaves


@dataclass(frozen=True)
class Resize:
    """A size that became another one: the indices that stay (None for a number of groups), and where in the graph that was."""

    old: int
    new: int
    keep: tuple[int, ...] | None
    position: int = 0


def outputs(model: nn.Module, traced: TorchTrace) -> list[torch.Tensor]:
    """Of the traced example, in inference mode."""
    seen: list[Any] = []
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    hook = model.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(0)
            forward(model, traced.example)
    finally:
        hook.remove()
    return [tensor for _, tensor in leaves(seen[-1])]


@dataclass(eq=False)
class Forward(TorchFunctionMode):
    """How far a forward came. operators: how many ran. running: the modules that it failed in, the outermost first. ended: the
    module that ended last. outputs: of every module in the order of their ends, if `recording`."""

    operators: int = 0
    running: list[str] = field(default_factory=list)
    ended: str = ""
    recording: bool = False
    outputs: list[tuple[str, list[torch.Tensor]]] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        return result

    def enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self.running.append(name)

    def leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.ended = self.running.pop()
            if self.recording:
                self.outputs.append((name, [tensor.clone() for _, tensor in leaves(output)]))

        return hook


def watched(model: nn.Module, traced: TorchTrace, recording: bool = False) -> Forward:
    """The same forward again, watched; its error is kept."""
    watch, handles = Forward(recording=recording), []
    try:
        for name, module in model.named_modules():
            handles += [module.register_forward_pre_hook(watch.enter(name)), module.register_forward_hook(watch.leave(name))]
        with watch:
            outputs(model, traced)
    except Exception as error:
        watch.error = error
    finally:
        for handle in handles:
            handle.remove()
    return watch


@contextmanager
def moved_by_one_place(model: nn.Module, draw: int) -> Iterator[None]:
    """Within, every weight is larger or smaller by one unit in its last place."""
    before = [(parameter, parameter.detach().clone()) for parameter in model.parameters() if parameter.is_floating_point()]
    random = torch.Generator().manual_seed(draw)
    try:
        with torch.no_grad():
            for parameter, value in before:
                signs = torch.randint(0, 2, value.shape, generator=random).to(value) * 2 - 1
                parameter.copy_(value * (1 + signs * torch.finfo(value.dtype).eps))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)


def fit(
    model: nn.Module, traced: TorchTrace, resizes: Sequence[Resize], taken: Collection[torch.Tensor], changes: Changes
) -> Forward:
    """Change sizes until the model runs, or nothing brings it further: the last forward tells. taken: tensors that are cut."""
    failed = watched(model, traced)
    while failed.error is not None:
        further = _further(model, traced, resizes, taken, changes, failed)
        if further is None:
            break
        failed = further
    return failed


def _further(
    model: nn.Module,
    traced: TorchTrace,
    resizes: Sequence[Resize],
    taken: Collection[torch.Tensor],
    changes: Changes,
    failed: Forward,
) -> Forward | None:
    place = end_of(traced, failed.ended)
    different: dict[Any, Resize] = {}
    for resize in sorted(resizes, key=lambda resize: abs(resize.position - place)):
        different.setdefault((resize.old, resize.new, resize.keep), resize)
    for name in reversed(failed.running):
        module = model.get_submodule(name)
        for resize in different.values():
            for attributes, tensors in _trials(module, resize, taken):
                before = len(changes)
                for attribute in attributes:
                    changes.set(module, attribute, _resized(vars(module)[attribute], resize))
                for tensor in tensors:
                    assert resize.keep is not None
                    Cut(tuple(tensor.shape), {tensor.shape.index(resize.old): resize.keep}).apply(tensor, changes)
                attempt = watched(model, traced)
                if attempt.error is None or attempt.operators > failed.operators:
                    return attempt
                changes.undo(before)
    return None


def _trials(
    module: nn.Module, resize: Resize, taken: Collection[torch.Tensor]
) -> Iterator[tuple[Sequence[str], Sequence[torch.Tensor]]]:
    """Attributes and tensors of a module that may stand for the channels: all of them, the ones or the others, each attribute."""
    attributes = [name for name, value in vars(module).items() if _resized(value, resize) is not None]
    own = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None and t not in taken]
    tensors = [t for t in own if t.numel() == resize.old and resize.old in t.shape] if resize.keep is not None else []
    if attributes and tensors:
        yield attributes, tensors
    if attributes:
        yield attributes, []
    if tensors:
        yield [], tensors
    if len(attributes) > 1:
        yield from (([attribute], []) for attribute in attributes)


def regroup(model: nn.Module, resizes: Sequence[Resize], changes: Changes, right: Callable[[], bool]) -> bool:
    """Give numbers of groups in the model's own modules their new value, until the model is `right`; whether it is.

    A channel shuffle that still takes the old number runs, but to another order.
    """
    own = [module for module in model.modules() if not type(module).__module__.startswith("torch.")]
    for resize in dict.fromkeys(resize for resize in resizes if resize.keep is None):
        holders = [(m, name) for m in own for name, value in vars(m).items() if type(value) is int and value == resize.old]
        for trial in (holders, *([holder] for holder in holders if len(holders) > 1)):
            before = len(changes)
            for module, name in trial:
                changes.set(module, name, resize.new)
            if trial and right():
                return True
            changes.undo(before)
    return False


def _resized(value: Any, resize: Resize) -> Any:
    """A whole number, or a tuple or list with one, that is the old size, with the new one; parts of the old size, with those of
    the new one; None for anything else."""
    if type(value) is int:
        return resize.new if value == resize.old else None
    if type(value) not in (tuple, list) or not all(type(item) is int for item in value):
        return None
    if value.count(resize.old) == 1:
        return type(value)(resize.new if item == resize.old else item for item in value)
    if len(value) > 1 and sum(value) == resize.old and resize.keep is not None:
        ends = np.searchsorted(resize.keep, np.cumsum(value))
        return type(value)(int(size) for size in np.diff(ends, prepend=0))
    return None


def end_of(traced: TorchTrace, module: str) -> int:
    """Where in the graph `module` ends."""
    inside = (f"{module}.", f"{module}/")
    return max((index for index, node in enumerate(traced.graph.nodes) if f"{node.module}/".startswith(inside)), default=0)
