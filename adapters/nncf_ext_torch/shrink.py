"""Fewer channels in a plain model: the user's own layers with smaller parameters, which compute what the model did.

Buffers and the layers' attributes (`layer_sizes`) go along with the parameters. What only the model's code knows shows when it
runs (`fitting`). In the end the model is compared with what it was.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nncf_ext.channels.shrinking import Changes, keep_along
from nncf_ext.closeness import CLOSE, are_close, largest_difference
from nncf_ext.edits import Removal
from nncf_ext.errors import ConfigError
from nncf_ext_torch.cut import Cut
from nncf_ext_torch.fitting import Forward, Resize, end_of, fit, moved_by_one_place, outputs, regroup, watched
from nncf_ext_torch.hub_config import fit_config
from nncf_ext_torch.layer_sizes import head_counts, sizes
from nncf_ext_torch.pruned_files import remember_sizes
from nncf_ext_torch.sharding import is_sharded, to_numpy
from nncf_ext_torch.sites import parameter_name
from nncf_ext_torch.trace import TorchTrace

_DRAWS = 4  # of moved weights
_ROUNDINGS = 16  # times what they make, the rounding of other sums may make
_TF32 = 2.0**-10  # a step of what GPUs multiply float32 in


def remove_channels(model: nn.Module, removals: Sequence[Removal], traced: TorchTrace) -> nn.Module:
    """Take all but the kept channels out of a plain `model`, in place; returns it.

    Parameters and buffers stay the same objects, with new shapes: tied ones stay tied, and an optimizer goes on with them, but
    for momenta, which have the old shapes: make a new one. Their gradients are dropped.
    ConfigError where the smaller model does not run on the traced example or computes something else (the removed channels were
    not zero, or its code has sizes of its own), ValueError for removals that contradict each other; the model is then as it was.
    """
    cuts = _cuts(model, removals, traced)
    expected = outputs(model, traced)
    changes = Changes()

    def right() -> bool:
        return _close(model, expected, outputs(model, traced))

    with changes.undone_on_error():
        resizes, done = _shrunk(model, traced, cuts, changes, right)
        if not done:
            after = watched(model, traced, recording=True)
            moved = []
            for draw in range(_DRAWS):
                with moved_by_one_place(model, draw):
                    moved.append(watched(model, traced, recording=True))
            changes.undo()
            before = watched(model, traced, recording=True)
            if not _differ_by_rounding(model, before, after, moved):
                raise ConfigError(_changed(model, traced, cuts, before, after))
            resizes, _ = _shrunk(model, traced, cuts, changes, right)
        fit_config(model, resizes, changes, right)
        remember_sizes(model, changes)
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
        if is_sharded(tensor):
            raise ValueError(f"{site}: is in shards, of which no channels can be taken: expected a model in one piece")
        cut = cuts.setdefault(tensor, _Source(tuple(tensor.shape), {}, site.node, positions[site.node]))
        keep_along(cut.keep, removal, cut.shape)
    return {tensor: cut for tensor, cut in cuts.items() if cut.keep}


def _shrunk(
    model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], changes: Changes, right: Callable[[], bool]
) -> tuple[list[Resize], bool]:
    """What became smaller, and whether the model, which runs, is `right`. ConfigError where it does not run."""
    resizes = _resize(model, cuts, changes)
    try:
        done = right()
    except Exception:
        forward = fit(model, traced, resizes, cuts, changes)
        if forward.error is not None:
            raise ConfigError(_failed(model, traced, cuts, forward)) from forward.error
        done = right()
    return resizes, done or regroup(model, resizes, changes, right)


def _resize(model: nn.Module, cuts: Mapping[torch.Tensor, _Source], changes: Changes) -> list[Resize]:
    """Cut the tensors, buffers of the same shape beside them, and the attributes that say these shapes; returns what became
    smaller."""
    resizes = [Resize(cut.shape[axis], len(keep), keep, cut.position) for cut in cuts.values() for axis, keep in cut.keep.items()]
    for tensor, cut in cuts.items():
        cut.apply(tensor, changes)
    done = set(map(id, cuts))
    for name, module in model.named_modules():
        own = _own(module, cuts)
        related = [*own.values(), *(cut for child in module.children() for cut in _own(child, cuts).values())]
        for buffer in module._buffers.values():
            cut = next((cut for cut in own.values() if buffer is not None and cut.shape == tuple(buffer.shape)), None)
            if cut is not None and buffer is not None and id(buffer) not in done:
                done.add(id(buffer))
                cut.apply(buffer, changes)
        if not related:
            continue
        try:
            attributes = sizes(module, own) | head_counts(module, _unambiguous(related))
        except ValueError as error:
            raise ConfigError(f"{_label(model, name)}: cannot lose channels: {error}; {_advice(related[0].node)}") from None
        for attribute, value in attributes.items():
            before, channels = getattr(module, attribute), getattr(module, "in_channels", None)
            if attribute in ("groups", "num_groups") and before not in (value, channels):
                resizes.append(Resize(before, value, None, related[0].position))
            changes.set(module, attribute, value)
    return resizes


def _own(module: nn.Module, cuts: Mapping[torch.Tensor, _Source]) -> dict[str, _Source]:
    return {name: cuts[p] for name, p in module._parameters.items() if p is not None and p in cuts}


def _unambiguous(cuts: Sequence[Cut]) -> dict[int, int]:
    """Old -> new size of the cut axes, where that is the same for all axes of the old size."""
    pairs = {(cut.shape[axis], len(keep)) for cut in cuts for axis, keep in cut.keep.items()}
    return {old: new for old, new in pairs if sum(other == old for other, _ in pairs) == 1}


def _close(model: nn.Module, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    tensors = [tensor for tensor in (*model.parameters(), *expected) if tensor.is_floating_point()]
    steps = [torch.finfo(t.dtype).eps if t.device.type == "cpu" else max(torch.finfo(t.dtype).eps, _TF32) for t in tensors]
    tolerance = max([CLOSE, *(16 * step for step in steps)])  # in lower precision a few of its steps
    floats = [index for index, tensor in enumerate(expected) if tensor.is_floating_point()]
    return [tensor.shape for tensor in expected] == [tensor.shape for tensor in found] and are_close(
        [to_numpy(expected[index].double()) for index in floats], [to_numpy(found[index].double()) for index in floats], tolerance
    )


def _differ_by_rounding(model: nn.Module, before: Forward, after: Forward, moved: Sequence[Forward]) -> bool:
    """Whether whatever modules give differs no more than it does where the weights of the smaller model have moved by their last
    place: a detector sorts and suppresses, and the least rounding makes other boxes of what is in front of that."""
    runs = [[(name, len(tensors)) for name, tensors in forward.outputs] for forward in (before, after, *moved)]
    if any(run != runs[0] for run in runs):
        return False
    for index, (name, larger) in enumerate(before.outputs):
        for place, large in enumerate(larger):
            small, *again = (forward.outputs[index][1][place] for forward in (after, *moved))
            if large.shape != small.shape and name and all(tensor.shape == small.shape for tensor in again):
                continue  # channels have left
            if _close(model, [large], [small]):
                continue
            if _difference(large, small) > _ROUNDINGS * max(_difference(small, tensor) for tensor in again):
                return False
    return True


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    return largest_difference(to_numpy(expected.double()), to_numpy(found.double()))


def _failed(model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], run: Forward) -> str:
    assert run.error is not None
    message = str(run.error).strip().partition("\n")[0].rstrip(".")
    inside = [cut.node for cut in cuts.values() if traced.graph[cut.node].module == (run.running or [""])[-1] != ""]
    return (
        f"{_label(model, run.running[-1] if run.running else '')}: does not run with the channels that are left "
        f"({type(run.error).__name__}: {message}{_line(run.error)}): take sizes from the tensor (`x.flatten(1)`, `x.shape`), or "
        f"{_advice(inside[0] if inside else _nearest(cuts, end_of(traced, run.ended)))}"
    )


def _changed(model: nn.Module, traced: TorchTrace, cuts: Mapping[torch.Tensor, _Source], before: Forward, after: Forward) -> str:
    where, position = "", len(traced.graph.nodes)
    for (name, expected), (_, found) in zip(before.outputs, after.outputs, strict=False):
        same = [pair for pair in zip(expected, found, strict=False) if pair[0].shape == pair[1].shape]
        if not _close(model, [a for a, _ in same], [b for _, b in same]):
            where, position = name, end_of(traced, name) if name else position
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
