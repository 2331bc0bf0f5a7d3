"""Weights into a torch model from a plain, a compressed, or an NNCF 2.x state dict."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from nncf_ext.nncf2.names import SETTINGS, UNSAVED, VARIABLES, place_in
from nncf_ext.state_matching import Given, load_matching
from nncf_ext_torch.apply import Applied, accept_written, applied_in

_PREFIXES = re.compile(r"^(?:module\.|nncf_module\.|_orig_mod\.)+")  # DataParallel's, NNCF's up to 2.4, torch.compile's


def load_state(
    model: nn.Module,
    state_dict_to_load: Mapping[str, torch.Tensor],
    is_resume: bool = False,
    keys_to_ignore: Iterable[str] | None = None,
) -> int:
    """Load what `state_dict_to_load` has for `model` (compressed or plain); returns how many tensors were loaded.

    Names are matched without the prefixes of wrappers on either side. A state dict of NNCF 2.x is known by its names: scales,
    ranges and masks go to the transforms that stand at the same places. is_resume: every tensor must find its place and
    the other way round, else RuntimeError and nothing is loaded; without it what is left over is named in a warning.
    keys_to_ignore: names (without prefixes) that need no place.

    >>> config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": {"algorithm": "magnitude_sparsity"}})
    >>> _, model = create_compressed_model(torch.nn.Linear(4, 2), config)
    >>> _, again = create_compressed_model(torch.nn.Linear(4, 2), config)
    >>> load_state(again, model.state_dict(), is_resume=True)  # weight, bias and mask
    3
    """
    own = {_plain(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}

    def copy(found: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in found.items():
                own[name].copy_(value)
        accept_written(model)

    ignored = set(keys_to_ignore or ())
    return load_matching(_given(model, state_dict_to_load, own, ignored), own, copy, is_resume, ignored)


def _given(
    model: nn.Module, state_dict: Mapping[str, torch.Tensor], own: Collection[str], ignored: Collection[str]
) -> Iterator[Given | str]:
    """The tensors of a state dict, whoever wrote it, by the plain names that `model` (`own`) has."""
    places = dict(_nncf_places(model))
    for key, value in state_dict.items():
        name = _plain(key)
        if name in ignored or not isinstance(value, torch.Tensor):
            continue
        if value.is_meta or value.layout != torch.strided or value.is_quantized:  # none of which can be copied from
            yield f"{key} is a tensor without plain values"
            continue
        of_nncf = None if name in own else place_in(name)
        if of_nncf is None:
            yield Given(key, name, value)
        else:
            yield from _given_by_nncf(key, value, *of_nncf, places)


def _given_by_nncf(
    key: str, value: torch.Tensor, place: str, what: str, places: Mapping[tuple[str, str], tuple[str, Applied]]
) -> Iterator[Given | str]:
    kind, variable = VARIABLES.get(what, ("quantizer", ""))
    owner, applied = places.get((place, kind), ("", None))
    if applied is None:
        yield f"{key}: the model has no {kind} there"
        return
    differs = _difference(applied.edit.transform, what, value)
    if differs:
        yield f"{key}: {differs}"
    attributes = applied.variables.attributes
    if f"log_{variable}" in attributes:  # NNCF keeps the scale itself, also where it learns its logarithm
        variable, value = f"log_{variable}", value.log()
    if variable in attributes:
        ours = {name: _plain(f"{owner}.{attribute}".lstrip(".")) for name, attribute in attributes.items()}
        yield Given(key, ours[variable], value, any_shape=True, implied=[ours[name] for name in UNSAVED.get(kind, ())])


def _plain(name: str) -> str:
    return _PREFIXES.sub("", name)


def _difference(transform: Any, what: str, value: torch.Tensor) -> str:
    """How a setting that NNCF saved differs from the transform's; empty where it does not, or `what` is no setting."""
    field = SETTINGS.get(what)
    if field is None:
        return ""
    if not value.numel():
        return "found no value"
    ours, theirs = getattr(transform, field), type(getattr(transform, field))(value.reshape(-1)[0].item())
    return "" if ours == theirs else f"found {field} {theirs}, the model's quantizer has {ours}: set it in the config"


def _nncf_places(model: nn.Module) -> Iterator[tuple[tuple[str, str], tuple[str, Applied]]]:
    """Where NNCF would have had the transforms of `model` and of which kind, each with its owner's name and the transform."""
    names = {id(module): name for name, module in model.named_modules()}
    for applied in applied_in(model):
        owner, kind = names[id(applied.variables.owner)], applied.edit.transform.kind
        for site in applied.edit.sites:
            if not site.is_parameter:
                yield (str(site), kind), (owner, applied)
            elif site.slot in ("weight", "bias"):
                yield (_plain(owner) if site.slot == "weight" else f"{_plain(owner)}|bias", kind), (owner, applied)
