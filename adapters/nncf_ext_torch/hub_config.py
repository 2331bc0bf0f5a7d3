"""The `config` that a model is built from (Hugging Face's), after channels have left: it says the new sizes where it can.

Where all layers of a kind have lost equally many, the entry of that size gets the new one, and `save_pretrained` and
`from_pretrained` work. Whether it does is seen by building a model from it, without memory: it has to have the shapes that this
one has, and this one has to compute the same with the numbers of that. Where not (layers differ, or heads go whose size a
config derives from their number), the config stays as it was; see `pruned_files`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from nncf_ext.channels.shrinking import Changes
from nncf_ext_torch.fitting import Resize
from nncf_ext_torch.layer_sizes import HEADS

_DERIVED = ("n_inner", "intermediate_size", "ffn_dim", "d_ff")  # widths that configs may leave to be computed, as None

_UNSAID = "_nncf_ext_unsaid_sizes"  # in the `__dict__` of a model: its config does not say the sizes that are left

Entry = tuple[tuple[str, ...], str, int]  # where the section is, the name in it, and the new value


def fit_config(model: nn.Module, resizes: Sequence[Resize], changes: Changes, right: Callable[[], bool]) -> None:
    """Change `model.config` where a model that is built from it then is like `model`, which stays `right`."""
    config = getattr(model, "config", None)
    if hasattr(config, "to_dict") and resizes:
        vars(model)[_UNSAID] = not _fit(model, config, resizes, changes, right)


def unsaid(model: nn.Module) -> str:
    """What somebody has to know who saves a model that channels have left, where its config stayed as it was."""
    if not vars(model).get(_UNSAID):
        return ""
    return (
        f"{type(model).__name__}: its config cannot say which channels or heads are left, so from_pretrained will not load what "
        "save_pretrained writes: save it with nncf_ext_torch.save_pruned(controller.strip(quantizers=False), path), load it "
        "with load_pruned, or put the queries of its attention into ignored_scopes where only heads are in the way"
    )


def _fit(model: nn.Module, config: Any, resizes: Sequence[Resize], changes: Changes, right: Callable[[], bool]) -> bool:
    for start in ((), tuple(_sizes_of_heads(model, config))):
        chosen = _fitting(model, config, start, resizes)
        built = None if chosen is None else _built(model, config, chosen)
        if chosen is not None and built is not None:
            break
    else:
        return False
    before = len(changes)
    for path, name, value in chosen:
        changes.set(_section(config, path), name, value)
    modules = dict(model.named_modules())
    for path, name, value in _numbers(built):
        module = modules.get(path)
        if module is not None and vars(module).get(name, value) != value:
            changes.set(module, name, value)
    if right():
        return True
    changes.undo(before)
    return False


def _fitting(model: nn.Module, config: Any, start: Sequence[Entry], resizes: Sequence[Resize]) -> Sequence[Entry] | None:
    """Entries, beside those of `start`, with which a model has the shapes of `model`; None where there are none."""
    chosen, shapes = start, _shapes(model)
    different = _differences(shapes, _built(model, config, chosen))
    for entry in _candidates(config, resizes):
        with_it = _differences(shapes, _built(model, config, [*chosen, entry]))
        if with_it < different:
            chosen, different = [*chosen, entry], with_it
    return None if different else chosen


def _sizes_of_heads(model: nn.Module, config: Any) -> Iterator[Entry]:
    """The size of a head, for configs that may say it and leave it to be computed from the number (Qwen2's)."""
    widths: set[Any] = {vars(module).get("head_dim") for module in model.modules()} - {None}
    for path, section in _sections(config) if len(widths) == 1 else ():
        if vars(section).get("head_dim") is None and any(name in vars(section) for name in HEADS):
            yield path, "head_dim", next(iter(widths))


def _candidates(config: Any, resizes: Sequence[Resize]) -> Iterator[Entry]:
    """Entries with a size that has become another one, and only one other; numbers of heads that make it up."""
    news: dict[int, set[int]] = {}
    for resize in resizes:
        news.setdefault(resize.old, set()).add(resize.new)
    one = {old: found.pop() for old, found in news.items() if len(found) == 1}
    for path, section in _sections(config):
        for name, value in vars(section).items():
            if value is None and name in _DERIVED:
                yield from ((path, name, new) for new in one.values())
            if type(value) is not int or value < 1:
                continue
            if value in one:
                yield path, name, one[value]
            if name in HEADS:
                widths = {(old // value, new) for old, new in one.items() if old % value == 0}
                yield from ((path, name, new // width) for width, new in widths if new % width == 0)


def _sections(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A config and those inside of it (of a text and of a vision model, say)."""
    yield path, config
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "__dict__"):
            yield from _sections(value, (*path, name))


def _section(config: Any, path: Sequence[str]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def _built(model: nn.Module, config: Any, entries: Sequence[Entry]) -> nn.Module | None:
    """A model without memory from the config with these entries; None where there is none."""
    changed = copy.deepcopy(config)
    for path, name, value in entries:
        vars(_section(changed, path))[name] = value
    try:
        with torch.device("meta"):
            return type(model)(changed)
    except Exception:  # whatever a user's class may raise
        return None


def _differences(shapes: dict[str, torch.Size], built: nn.Module | None) -> float:
    return math.inf if built is None else len(_shapes(built).items() ^ shapes.items())


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _numbers(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """(module, attribute, value) of whole numbers and tuples of them."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if type(value) is int or (isinstance(value, tuple) and all(type(item) is int for item in value)):
                yield path, name, value
