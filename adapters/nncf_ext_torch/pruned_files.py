"""Files of models that channels have left: the tensors, and the sizes that the layers keep beside them.

A model is built by its user's code, with all of its channels. `load_pruned` gives it the shapes of the file.
"""

from __future__ import annotations

import json
import os
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import StrictInt, TypeAdapter
from torch import nn

from nncf_ext.channels.shrinking import Changes
from nncf_ext.checkpoint import FORMAT, CheckpointError, TensorFile
from nncf_ext.files.schema import expect
from nncf_ext.files.writing import replacing

_RECORD = "_nncf_ext_sizes"  # in the `__dict__` of a model: attributes by `module.attribute`, with the values that they got
_KEY = "pruned_sizes"  # of what is saved with the tensors
_SIZES = TypeAdapter(dict[str, StrictInt | list[StrictInt]])
Model = TypeVar("Model", bound=nn.Module)


def remember_sizes(model: nn.Module, changes: Changes) -> None:
    """Keep what has become of the attributes of the modules, for `save_pruned`."""
    paths: dict[Any, str] = {module: path for path, module in model.named_modules()}
    sizes = dict(vars(model).get(_RECORD, {}))
    for owner, name in changes.attributes:
        if not isinstance(owner, nn.Module):  # a config
            continue
        value = vars(owner)[name]
        sizes[f"{paths[owner]}.{name}"] = list(value) if isinstance(value, tuple | list) else value
    vars(model)[_RECORD] = sizes


def save_pruned(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a stripped model to one safetensors file, for `load_pruned`. ValueError where it still has quantizers."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _tensors(model).items():
        if id(tensor) not in seen:  # tied ones once
            seen.add(id(tensor))
            tensors[name] = tensor.detach().clone().contiguous()
    if any("nncf_ext" in name for name in tensors):
        raise ValueError("save_pruned: found a model with quantizers or masks, expected one of ctrl.strip(quantizers=False)")
    sizes = vars(model).get(_RECORD, {})
    header = json.dumps({"format": FORMAT, "state": {_KEY: sizes}})
    with replacing(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"nncf_ext": header})


def load_pruned(model: Model, path: str | os.PathLike[str]) -> Model:
    """Give `model`, which has all of its channels, the shapes and the values of a file of `save_pruned`, in place; returns it.

    CheckpointError where the file is of another model, or no such file; the model is then as it was. Make optimizers afterwards.

    >>> def network():
    ...     return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> pruning = {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"prune_first_conv": True}}
    >>> config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": pruning})
    >>> controller, _ = create_compressed_model(network(), config)
    >>> save_pruned(controller.strip(), "pruned.safetensors")
    >>> load_pruned(network(), "pruned.safetensors")[0].out_features
    8
    """
    file = TensorFile(path)
    try:
        sizes = expect(_SIZES, (file.state or {}).get(_KEY))
    except ValueError as error:
        raise CheckpointError(f"{path}: found no sizes in it, expected a file of save_pruned ({error})") from None
    own = _tensors(model)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({error})") from None
    _check(model, own, tensors, sizes, path)
    for name, value in sizes.items():
        module, _, attribute = name.rpartition(".")
        owner = model.get_submodule(module)
        before = vars(owner)[attribute]
        vars(owner)[attribute] = tuple(value) if isinstance(before, tuple) and isinstance(value, list) else value
    with torch.no_grad():
        for name, value in tensors.items():
            if own[name].shape != value.shape:
                own[name].data = torch.empty(value.shape, dtype=own[name].dtype, device=own[name].device)
            own[name].copy_(value)
    vars(model)[_RECORD] = {**vars(model).get(_RECORD, {}), **sizes}
    return model


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that are in no state_dict: these may have channels too."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _check(
    model: nn.Module, own: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], sizes: dict[str, Any], path: Any
) -> None:
    held = {id(own[name]) for name in tensors if name in own}
    odd = [name for name, tensor in tensors.items() if name not in own or not _may_become(own[name], tensor)]
    odd += [name for name, tensor in own.items() if id(tensor) not in held]
    modules = dict(model.named_modules())
    for name, value in sizes.items():
        module, _, attribute = name.rpartition(".")
        before = vars(modules[module]).get(attribute) if module in modules else None
        if type(before) is not int if isinstance(value, int) else not isinstance(before, tuple | list):
            odd.append(name)
    if odd:
        raise CheckpointError(
            f"{path}: is of another model than this {type(model).__name__}: {odd[0]} is not the same in both"
            + (f" (nor are {len(odd) - 1} others)" if len(odd) > 1 else "")
        )


def _may_become(whole: torch.Tensor, smaller: torch.Tensor) -> bool:
    """Whether channels of `whole` may have left, and `smaller` stays."""
    same = whole.ndim == smaller.ndim and whole.is_floating_point() == smaller.is_floating_point()
    return same and all(left <= size for left, size in zip(smaller.shape, whole.shape, strict=True))
