"""Fewer channels in a plain model: the user's own layers with smaller parameters, which compute what the model did.

Gradients, buffers and the layers' attributes go along with the parameters. What is not known from the parameters (a size that a
forward splits or reshapes with, a factor per channel that is no operator's weight) shows when the model runs, and is fitted then.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nncf_ext.config.errors import ConfigError
from nncf_ext.edits import Removal
from nncf_ext_torch.layer_sizes import Cut, head_counts, sizes
from nncf_ext_torch.sites import parameter_name
from nncf_ext_torch.trace import TorchTrace, evaluating, forward, leaves

_CLOSE = 1e-4  # of the largest value of an output; in lower precision a few of its steps
_TF32 = 2.0**-10  # a step of what GPUs multiply float32 in


def remove_channels(model: nn.Module, removals: Sequence[Removal], traced: TorchTrace) -> nn.Module:
    """Take all but the kept channels out of a plain `model`, in place; returns it.

    Parameters and buffers stay the same objects, with new shapes: tied ones stay tied, and an optimizer goes on with them, but
    for momenta, which have the old shapes: make a new one. Their gradients are dropped.
    ConfigError where the smaller model does not run on the traced example or computes something else (the removed channels were
    not zero, or its code has sizes of its own), ValueError for removals that contradict each other; the model is then as it was.
    """
    cuts = _cuts(model, removals, traced)
    expected = _outputs(model, traced)
    changes = _Changes()
    try:
        _resize(model, cuts, changes)
        try:
            found = _outputs(model, traced)
        except Exception:
            _fit(model, traced, cuts, changes)
            found = _outputs(model, traced)
        if not _close(model, expected, found):
            after = _watched(model, traced, recording=True)
            changes.undo()
            raise ConfigError(_changed(model, traced, cuts, _watched(model, traced, recording=True), after))
    except BaseException:
        changes.undo()
        raise
    return model


@dataclass(frozen=True)
class _Source(Cut):
    """The cut of one parameter, and the place in the graph where it was asked for."""

    node: str = ""
    position: int = 0


def _cuts(model: nn.Module, removals: Sequence[Removal], traced: TorchTrace) -> dict[torch.Tensor, _Source]:
    positions = {node.name: index for index, node in enumerate(traced.graph.nodes)}
    tensors = {**dict(model.named_buffers(remove_duplicate=False)), **dict(model.named_parameters(remove_duplicate=False))}
    cuts: dict[torch.Tensor, _Source] = {}
    for removal in removals:
        tensor, site = tensors[parameter_name(traced, removal.site)], removal.site
        shape, keep = tuple(tensor.shape), tuple(removal.keep)
        if not -len(shape) <= removal.axis < len(shape):
            raise ValueError(f"{site}: found axis {removal.axis}, expected one of {len(shape)} axes")
        axis = removal.axis % len(shape)
        if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= shape[axis]:
            raise ValueError(f"{site}: found {_shown(keep)} to keep, expected sorted indices below {shape[axis]}, at least one")
        cut = cuts.setdefault(tensor, _Source(shape, {}, site.node, positions[site.node]))
        if cut.keep.get(axis, keep) != keep:
            raise ValueError(f"{site}: found other channels to keep along axis {axis} than at {cut.node}, expected the same")
        if len(keep) < shape[axis]:
            cut.keep[axis] = keep  # type: ignore[index]
    return {tensor: cut for tensor, cut in cuts.items() if cut.keep}


class _Changes:
    """Changes of tensors and attributes, to be undone exactly."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._undo)

    def cut(self, tensor: torch.Tensor, cut: Cut) -> None:
        before, gradient = tensor.data, tensor.grad

        def undo() -> None:
            _give(tensor, before)
            tensor.grad = gradient

        self._undo.append(undo)
        tensor.grad = None
        _give(tensor, cut.of(before))

    def attribute(self, module: nn.Module, name: str, value: Any) -> None:
        before = vars(module)[name]
        self._undo.append(lambda: vars(module).update({name: before}))
        vars(module)[name] = value

    def undo(self, down_to: int = 0) -> None:
        while len(self._undo) > down_to:
            self._undo.pop()()


def _give(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """`value` as the data of `tensor`. Where an earlier forward's graph is still alive, autograd remembers the old shape; it
    forgets it when the type changes."""
    if tensor.requires_grad:
        tensor.data = tensor.data.to(torch.float16 if tensor.dtype != torch.float16 else torch.float32)
    tensor.data = value


def _resize(model: nn.Module, cuts: Mapping[torch.Tensor, _Source], changes: _Changes) -> None:
    """Cut the parameters, buffers of the same shape beside them, and the attributes that say these shapes."""
    for tensor, cut in cuts.items():
        changes.cut(tensor, cut)
    done = set(map(id, cuts))
    for name, module in model.named_modules():
        own = _own(module, cuts)
        related = [*own.values(), *(cut for child in module.children() for cut in _own(child, cuts).values())]
        for buffer in module._buffers.values():
            cut = next((cut for cut in own.values() if buffer is not None and cut.shape == tuple(buffer.shape)), None)
            if cut is not None and buffer is not None and id(buffer) not in done:
                done.add(id(buffer))
                changes.cut(buffer, cut)
        if not related:
            continue
        try:
            attributes = sizes(module, own) | head_counts(module, _unambiguous(related))
        except ValueError as error:
            raise ConfigError(f"{_label(model, name)}: cannot lose channels: {error}; {_advice(related[0].node)}") from None
        for attribute, value in attributes.items():
            changes.attribute(module, attribute, value)


def _own(module: nn.Module, cuts: Mapping[torch.Tensor, _Source]) -> dict[str, _Source]:
    return {name: cuts[p] for name, p in module._parameters.items() if p is not None and p in cuts}


def _unambiguous(cuts: Sequence[Cut]) -> dict[int, int]:
    """Old -> new size of the cut axes, where that is the same for all axes of the old size."""
    pairs = {(cut.shape[axis], len(keep)) for cut in cuts for axis, keep in cut.keep.items()}
    return {old: new for old, new in pairs if sum(other == old for other, _ in pairs) == 1}


def _outputs(model: nn.Module, traced: TorchTrace) -> list[torch.Tensor]:
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
class _Forward(TorchFunctionMode):
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


def _watched(model: nn.Module, traced: TorchTrace, recording: bool = False) -> _Forward:
    """The same forward again, watched; its error is kept."""
    watch, handles = _Forward(recording=recording), []
    try:
        for name, module in model.named_modules():
            handles += [module.register_forward_pre_hook(watch.enter(name)), module.register_forward_hook(watch.leave(name))]
        with watch:
            _outputs(model, traced)
    except Exception as error:
        watch.error = error
    finally:
        for handle in handles:
            handle.remove()
    return watch


def _close(model: nn.Module, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    tensors = [tensor for tensor in (*model.parameters(), *expected) if tensor.is_floating_point()]
    steps = [torch.finfo(t.dtype).eps if t.device.type == "cpu" else max(torch.finfo(t.dtype).eps, _TF32) for t in tensors]
    tolerance = max([_CLOSE, *(16 * step for step in steps)])
    return len(expected) == len(found) and all(
        a.shape == b.shape and (not a.is_floating_point() or _difference(a, b) <= tolerance)
        for a, b in zip(expected, found, strict=True)
    )


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The largest, as a share of the largest value; infinite where one of them is no number and the other is."""
    a, b = expected.double(), found.double()
    same = (a == b) | (a.isnan() & b.isnan())
    scale = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
    difference = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf)
    largest = float(difference.max()) if difference.numel() else 0.0
    return largest / scale if scale else largest


def _fit(model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], changes: _Changes) -> None:
    """Give sizes and per-channel tensors of the failing modules the new number of channels, as long as this gets the forward
    further. ConfigError where it does not."""
    failed = _watched(model, traced)
    while failed.error is not None:
        further = _further(model, traced, cuts, changes, failed)
        if further is None:
            raise ConfigError(_failed(model, traced, cuts, failed)) from failed.error
        failed = further


def _further(
    model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], changes: _Changes, failed: _Forward
) -> _Forward | None:
    nearest = sorted(cuts.values(), key=lambda cut: abs(cut.position - _end(traced, failed.ended)))
    lines = dict.fromkeys((cut.shape[axis], keep) for cut in nearest for axis, keep in cut.keep.items())
    for name in reversed(failed.running):
        module = model.get_submodule(name)
        for size, keep in lines:
            for attributes, tensors in _trials(module, size, cuts):
                before = len(changes)
                for attribute in attributes:
                    changes.attribute(module, attribute, _resized(vars(module)[attribute], size, len(keep)))
                for tensor in tensors:
                    changes.cut(tensor, Cut(tuple(tensor.shape), {tensor.shape.index(size): keep}))
                attempt = _watched(model, traced)
                if attempt.error is None or attempt.operators > failed.operators:
                    return attempt
                changes.undo(before)
    return None


def _trials(
    module: nn.Module, size: int, cuts: Mapping[torch.Tensor, Cut]
) -> Iterator[tuple[Sequence[str], Sequence[torch.Tensor]]]:
    """Attributes and tensors of a module that may stand for `size` channels: all of them, the ones or the others, each alone."""
    attributes = [name for name, value in vars(module).items() if _resized(value, size, 0) is not None]
    own = [*module._parameters.values(), *module._buffers.values()]
    tensors = [t for t in own if t is not None and t not in cuts and t.numel() == size and size in t.shape]
    trials = [(attributes, tensors), (attributes, []), ([], tensors), *(([a], []) for a in attributes)]
    tried: list[Any] = []
    for trial in trials:
        if any(trial) and not any(trial[0] == a and list(map(id, trial[1])) == list(map(id, t)) for a, t in tried):
            tried.append(trial)
            yield trial


def _resized(value: Any, old: int, new: int) -> Any:
    """A whole number, or a tuple or list with one, that is `old`, as `new`; None for anything else."""
    if type(value) is int:
        return new if value == old else None
    if type(value) in (tuple, list) and value.count(old) == 1 and all(type(item) is int for item in value):
        return type(value)(new if item == old else item for item in value)
    return None


def _end(traced: TorchTrace, module: str) -> int:
    """Where in the graph `module` ends."""
    inside = (f"{module}.", f"{module}/")
    return max((index for index, node in enumerate(traced.graph.nodes) if f"{node.module}/".startswith(inside)), default=0)


def _failed(model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], run: _Forward) -> str:
    assert run.error is not None
    message = str(run.error).strip().partition("\n")[0].rstrip(".")
    return (
        f"{_label(model, run.running[-1] if run.running else '')}: does not run with the channels that are left "
        f"({type(run.error).__name__}: {message}{_line(run.error)}): take sizes from the tensor (`x.flatten(1)`, `x.shape`), or "
        f"{_advice(_nearest(cuts, _end(traced, run.ended)))}"
    )


def _changed(
    model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], before: _Forward, after: _Forward
) -> str:
    where, position = "", len(traced.graph.nodes)
    for (name, expected), (_, found) in zip(before.outputs, after.outputs, strict=False):
        same = [pair for pair in zip(expected, found, strict=False) if pair[0].shape == pair[1].shape]
        if not _close(model, [a for a, _ in same], [b for _, b in same]):
            where, position = name, _end(traced, name) if name else position
            break
    return (
        f"{_label(model, where)}: does not give what it gave before channels were removed: they were not zero, or it computes "
        f"with them though they are; {_advice(_nearest(cuts, position))}"
    )


def _nearest(cuts: Mapping[torch.Tensor, _Source], position: int) -> str:
    """The node that a removal was asked for at, the last one up to `position` if there is one."""
    ordered = sorted(cuts.values(), key=lambda cut: (cut.position > position, abs(position - cut.position)))
    return ordered[0].node


def _advice(node: str) -> str:
    return f'add "{node}" to ignored_scopes'


def _label(model: nn.Module, name: str) -> str:
    return f"{type(model.get_submodule(name)).__name__} {name}".rstrip()


def _line(error: Exception) -> str:
    """The innermost line that is not torch's own."""
    others = {Path(torch.__file__).parent, Path(__file__).parent}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(folder in path.parents for folder in others):
            code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return f" in `{code}`, {path.name} line {frame.lineno}"
    return ""


def _shown(keep: Sequence[int]) -> str:
    return str(list(keep)) if len(keep) < 8 else f"[{', '.join(map(str, keep[:6]))}, ...]"
