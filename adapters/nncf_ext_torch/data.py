"""What `nncf_ext.data` asks of PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from nncf_ext.calibration.initialization import micro_batches
from nncf_ext.data import Input, ModelInputs, target_in
from nncf_ext_torch import arguments
from nncf_ext_torch.arguments import by_argument
from nncf_ext_torch.compiled_models import model_in
from nncf_ext_torch.sharding import to_numpy
from nncf_ext_torch.trace import ExampleInput, leaves


class TorchData:
    """`nncf_ext.data.Framework`; all goes to `device`, where one is given."""

    def __init__(self, device: Any = None):
        self.device = device

    def expected(self, model: nn.Module, example: Any = None) -> ModelInputs:
        return expected_inputs(model, example)

    def items(self, data: Any) -> tuple[Callable[[], Iterable[Any]], bool] | None:
        is_stream = isinstance(data, IterableDataset) or (isinstance(data, Dataset) and not hasattr(data, "__len__"))
        return (cast(Callable[[], Iterable[Any]], lambda: data), True) if is_stream else None

    def taken_apart(self, data: Any, batch: Any) -> tuple[Any, Any] | None:
        own: Any = getattr(data, "get_inputs", None)
        if own is not None:
            target: Any = getattr(data, "get_target", target_of)
            return self._placed(ExampleInput(*own(batch))), moved(target(batch), self.device)
        if isinstance(batch, ExampleInput):
            return self._placed(batch), None
        if _is_of_detection(batch):
            return self._placed(ExampleInput((list(batch[0]),))), moved(batch[1], self.device)
        return None

    def inputs(self, structure: Any) -> ExampleInput:
        structure = _tensors(structure, False)
        if isinstance(structure, Mapping):
            return self._placed(ExampleInput((), structure))
        return self._placed(ExampleInput(tuple(structure) if isinstance(structure, tuple | list) else (structure,)))

    def target(self, structure: Any) -> Any:
        return moved(_tensors(structure, True), self.device)

    def stacked(self, values: Sequence[Any]) -> Any:
        if isinstance(values[0], torch.Tensor):
            return torch.stack(list(values))
        found = np.stack([np.asarray(value) for value in values])
        if found.dtype.kind not in "biuf":
            raise TypeError("no numbers")
        return found

    def micro_batches(self, inputs: ExampleInput, target: Any) -> Iterator[tuple[ExampleInput, Any]]:
        samples = _length(inputs)
        for args, kwargs, part in micro_batches((inputs.args, inputs.kwargs, target), samples):
            yield ExampleInput(args, kwargs), part

    def samples(self, inputs: Any) -> int:
        first = inputs.args[0] if isinstance(inputs, ExampleInput) and inputs.args else None
        return len(first) if isinstance(first, list) else _length(inputs)  # a list of images

    def named(self, model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
        return arguments.named_inputs(model, inputs)

    def resized(self, model: nn.Module, inputs: Any, sizes: Mapping[str, Mapping[int, int]]) -> ExampleInput:
        return arguments.resized(model, inputs, sizes)

    def flatten(self, outputs: Any) -> list[tuple[str, torch.Tensor]]:
        return [(".".join(map(str, path)), tensor) for path, tensor in leaves(outputs) if tensor.is_floating_point()]

    def on_host(
        self, function: Callable[..., Sequence[np.ndarray]], arrays: Sequence[Any], like: Sequence[tuple[tuple[int, ...], str]]
    ) -> list[torch.Tensor]:
        def run() -> list[torch.Tensor]:
            return [torch.as_tensor(result).to(arrays[0].device) for result in function(*map(to_numpy, arrays))]

        apart: Any = torch.compiler.disable(run)
        return apart()

    def read_tensor(self, path: Path) -> np.ndarray:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"PyTorch cannot read it as a file of tensors alone: {str(error).splitlines()[0]}") from None
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"found a {type(found).__name__}, expected a tensor")
        return to_numpy(found)

    def _placed(self, call: ExampleInput) -> ExampleInput:
        return ExampleInput(*moved((call.args, call.kwargs), self.device))


def expected_inputs(model: nn.Module, example: Any = None) -> ModelInputs:
    """What the forward takes, by its signature; how many axes, by `example`."""
    model = model_in(model)
    parameters = list(inspect.signature(model.forward).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return ModelInputs(made=_decoder_inputs(model))
    ranks: dict[str, int] = {}
    if isinstance(example, ExampleInput):
        try:
            ranks = {name: x.ndim for name, x in by_argument(model, example).items() if isinstance(x, torch.Tensor)}
        except TypeError:  # what does not fit will be told when the model runs
            ranks = {}

    def told(names: Iterable[str]) -> tuple[Input, ...]:
        return tuple(Input(name, ((None,) * ranks[name],) if ranks.get(name) else ()) for name in names)

    return ModelInputs(
        told(p.name for p in parameters if p.default is p.empty),
        told(p.name for p in parameters if p.default is not p.empty),
        made=_decoder_inputs(model),
    )


def _decoder_inputs(model: nn.Module) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """What Hugging Face's models with a decoder make of labels: they do not run without it."""
    prepare: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)

    def made(entries: Mapping[str, Any]) -> Mapping[str, Any]:
        if prepare is None or "labels" not in entries or "decoder_input_ids" in entries:
            return {}
        return {"decoder_input_ids": prepare(torch.as_tensor(entries["labels"]))}

    return made


def _length(inputs: Any) -> int:
    """Of the first axis."""
    return next((int(tensor.shape[0]) for _, tensor in leaves(inputs) if tensor.ndim), 1)


def target_of(batch: Any) -> Any:
    """What the loss compares the outputs with, in one batch of a loader."""
    if isinstance(batch, Mapping):
        return target_in(batch)
    return batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None


def moved(value: Any, device: Any) -> Any:
    if device is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(moved(item, device) for item in value)
    return value


def _is_of_detection(batch: Any) -> bool:
    """A list of images of any sizes, one argument of the model, and for each a mapping (boxes, labels, ...)."""
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not all(isinstance(part, tuple | list) for part in batch[:2]):
        return False
    return len(batch[0]) == len(batch[1]) and all(isinstance(target, Mapping) for target in batch[1])


def _tensors(value: Any, of_target: bool) -> Any:
    """Arrays as tensors of the types that PyTorch's layers and losses take: numpy's default float64 as float32 (the default),
    whole numbers as int64 (bytes, which images have, as they are). Tensors are as they are."""
    if isinstance(value, Mapping):
        return {key: _tensors(item, of_target) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_tensors(item, of_target) for item in value)
    if isinstance(value, torch.Tensor) or not hasattr(value, "__array__"):
        return value
    array = np.array(value)  # its own memory, which may be written to
    tensor = torch.from_numpy(array) if array.dtype.kind in "biuf" else value
    if array.dtype == np.float64:
        return tensor.to(torch.get_default_dtype())
    return tensor.long() if array.dtype.kind in "iu" and (of_target or array.dtype != np.uint8) else tensor
