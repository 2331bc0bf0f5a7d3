"""Weights into a torch model from a plain, a compressed, or an NNCF 2.x state dict."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from nncf_ext.nncf2.names import SETTINGS, VARIABLES
from nncf_ext_torch.apply import Applied, accept_written, applied_in

_PREFIXES = re.compile(r"^(?:module\.|nncf_module\.|_orig_mod\.)+")  # DataParallel's, NNCF's up to 2.4, torch.compile's
_OF_PARAMETER = re.compile(r"(?P<module>.*?)\.?pre_ops\.\w+\.op\.(?P<name>(?:\w+_ctx\.)?\w+)$")
_OF_ACTIVATION = re.compile(
    r"(?:_nncf\.)?external_quantizers\.(?P<scope>.*)\|(?P<point>OUTPUT|INPUT(?P<port>\d+)?)\.(?P<name>\w+)$"
)
_WRAPPED_CLASS = re.compile(r"(?<![A-Za-z0-9_])NNCF(?=\w+\[)")


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
    ignored = set(keys_to_ignore or ())
    own = {_plain(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    places = dict(_nncf_places(model))
    found: dict[str, torch.Tensor] = {}
    problems: list[str] = []
    for key, value in state_dict_to_load.items():
        name = _plain(key)
        if name in ignored or not isinstance(value, torch.Tensor):
            continue
        if value.is_meta or value.layout != torch.strided or value.is_quantized:  # none of which can be copied from
            problems.append(f"{key} is a tensor without plain values")
            continue
        of_nncf = None if name in own else _nncf_name(name)
        if of_nncf is not None:
            place, what = of_nncf
            kind, variable = VARIABLES.get(what, ("quantizer", ""))
            owner, applied = places.get((place, kind), ("", None))
            if applied is None:
                problems.append(f"{key}: the model has no {kind} there")
                continue
            differs = _difference(applied.edit.transform, what, value)
            if differs:
                problems.append(f"{key}: {differs}")
            if (
                f"log_{variable}" in applied.variables.attributes
            ):  # NNCF keeps the scale itself, also where it learns its logarithm
                variable, value = f"log_{variable}", value.log()
            if variable not in applied.variables.attributes:
                continue
            ours = {v: _plain(f"{owner}.{a}".lstrip(".")) for v, a in applied.variables.attributes.items()}
            name = ours[variable]
            if kind == "rb_mask":
                ignored |= set(ours.values()) - {name}  # noise and level: NNCF has none to give
        if name not in own:
            problems.append(f"{key} has no place in the model")
        elif own[name].numel() != value.numel() or (of_nncf is None and own[name].shape != value.shape):
            problems.append(f"{key} has shape {tuple(value.shape)}, the model's {tuple(own[name].shape)}")
        else:
            found[name] = value.reshape(own[name].shape)
    problems += [f"{name} is missing" for name in own if name not in found and name not in ignored]
    if is_resume and problems:
        raise RuntimeError(f"load_state: {problems[0]} ({len(problems)} such differences)")
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)
    accept_written(model)
    if problems:
        warnings.warn(f"load_state: {len(found)} tensors loaded; {problems[0]} ({len(problems)} such differences)", stacklevel=2)
    return len(found)


def _plain(name: str) -> str:
    return _PREFIXES.sub("", name)


def _nncf_name(name: str) -> tuple[str, str] | None:
    """(place, what is kept) that an NNCF 2.x name is about; the place is a module's name, `<module>|bias` or `<node>|<slot>`."""
    of_parameter = _OF_PARAMETER.match(name)
    if of_parameter is not None:
        module, name = of_parameter["module"], of_parameter["name"]
        return f"{module}|bias" if name.startswith("bias_") else module, name
    match = _OF_ACTIVATION.match(name)
    if match is None:
        return None
    slot = "output" if match["point"] == "OUTPUT" else f"input:{match['port'] or 0}"
    return f"{_WRAPPED_CLASS.sub('', match['scope'])}|{slot}", match["name"]


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
