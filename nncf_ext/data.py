"""Data as people have them, as batches for a model: arrays, datasets, loaders, generators, lists of batches or of samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from nncf_ext.errors import ConfigError

_TARGETS = ("labels", "label", "target", "targets", "start_positions", "end_positions")
BATCH_SIZE = 32  # where data come as samples
_EXPECTED = (
    "a loader or dataset, an array, (x, y) or a dict of arrays, a list of batches, or a generator function that gives batches"
)


class DataWarning(UserWarning):
    """Something in the data that the model does not get."""


@dataclass(frozen=True)
class Input:
    """An argument or input layer. shapes: those that a batch may have, None for any size; none where that is not known."""

    name: str
    shapes: tuple[tuple[int | None, ...], ...] = ()

    def __str__(self) -> str:
        sizes = (
            ", ".join(["batch", *("any" if size is None else str(size) for size in self.shapes[0][1:])]) if self.shapes else ""
        )
        return f"{self.name} ({sizes})" if sizes else self.name


@dataclass(frozen=True)
class ModelInputs:
    """What a model is called with, as far as is known without running it.

    required: what it has to get, in order; None where it does not say. optional: what it may get besides, in order. by: how
    it takes several. made: of the entries of a mapping, those that the model gets besides, for training makes them of the labels.
    """

    required: tuple[Input, ...] | None = None
    optional: tuple[Input, ...] = ()
    by: Literal["either", "name", "order"] = "either"
    made: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda entries: {}

    def __str__(self) -> str:
        if self.required is None:
            return "any arguments"
        names = ", ".join(map(str, self.required)) or "nothing that it must have"
        return names + (f", and may take {', '.join(map(str, self.optional))}" if self.optional else "")

    def of(self, inputs: Any) -> list[tuple[Any, Input]] | None:
        """The arrays in `inputs` (one, a sequence or by name), each with what it is for; None where they do not go together."""
        known = (*(self.required or ()), *self.optional)
        if isinstance(inputs, Mapping):
            by_name = {each.name: each for each in known}
            return [(x, by_name.get(name, Input(name))) for name, value in inputs.items() for x in arrays(value)]
        items = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
        if self.required is None:
            return [(x, Input("")) for item in items for x in arrays(item)]
        if not len(self.required) <= len(items) <= len(known):
            return None
        return [(x, each) for item, each in zip(items, known, strict=False) for x in arrays(item)]


def target_in(batch: Mapping[str, Any]) -> Any:
    """What the loss takes of a mapping; None where it has nothing for it."""
    return next((batch[key] for key in _TARGETS if key in batch), None)


def _is_target(name: Any) -> bool:
    """Whether an entry of a mapping is for the loss, which models may compute themselves; the names are Hugging Face's too."""
    return name in _TARGETS or "label" in str(name)


class Framework(Protocol):
    """What only an adapter can say of data."""

    def expected(self, model: Any, example: Any = None) -> ModelInputs:
        """What data have to give the model. example: what it is traced with, or None."""
        ...

    def items(self, data: Any) -> tuple[Callable[[], Iterable[Any]], bool] | None:
        """How to iterate a container of the framework's own, and whether its items are samples; None for any other."""
        ...

    def taken_apart(self, data: Any, batch: Any) -> tuple[Any, Any] | None:
        """(model inputs, target) of a batch that tells itself, or whose loader does; None where nothing does."""
        ...

    def inputs(self, structure: Any) -> Any:
        """Model inputs from arrays: one, a sequence, or a mapping by name."""
        ...

    def target(self, structure: Any) -> Any: ...

    def stacked(self, values: Sequence[Any]) -> Any:
        """One array of those of some samples. ValueError or TypeError where they have no common shape."""
        ...

    def micro_batches(self, inputs: Any, target: Any) -> Iterable[tuple[Any, Any]]:
        """A batch in parts of few samples each."""
        ...

    def samples(self, inputs: Any) -> int:
        """How many there are in one batch of model inputs."""
        ...

    def named(self, model: Any, inputs: Any) -> dict[str, Any]:
        """The arrays in one batch of model inputs, as a forward has them too, or in what the model was traced with, by name: of
        the argument, the key or the input layer."""
        ...

    def resized(self, model: Any, inputs: Any, sizes: Mapping[str, Mapping[int, int]]) -> Any:
        """`inputs` (one batch) with other sizes: by the names of `named`, axis -> size. What is longer than before begins again
        at the start."""
        ...

    def flatten(self, outputs: Any) -> list[tuple[str, Any]]:
        """The floating-point arrays in a model's (nested) outputs, in a fixed order, with their names there."""
        ...

    def on_host(
        self, function: Callable[..., Sequence[np.ndarray]], arrays: Sequence[Any], like: Sequence[tuple[tuple[int, ...], str]]
    ) -> list[Any]:
        """What `function` makes of the arrays' values, in every run of a compiled function too, without gradients.

        like: shape (without the first axis, the batch) and dtype of each result.
        """
        ...

    def read_tensor(self, path: Path) -> np.ndarray:
        """The one tensor in a file of the framework's own kind. ValueError where it is none, or cannot be read safely."""
        ...


class Data:
    """What was given as `argument`, read anew as often as it is asked for. A generator, which can be read once, is kept as far
    as it has been read. ConfigError for what is no data."""

    def __init__(self, data: Any, framework: Framework, argument: str, batch_size: int | None = None):
        self.framework, self.argument, self.batch_size = framework, argument, batch_size or BATCH_SIZE
        self._told: set[str] = set()
        self._found = ""
        if data is None or isinstance(data, str | bytes | int | float) or not _is_data(data):
            raise ConfigError(f"{argument}: found {described(data)}, expected {_EXPECTED}")
        self._data = _Replayed(data) if isinstance(data, Iterator) else data

    def __deepcopy__(self, memo: Any) -> Data:
        """Itself: a copy of a config is about the same data."""
        return self

    def batches(self, expected: ModelInputs) -> Iterator[tuple[Any, Callable[[], Any]]]:
        """Model inputs, and a function that gives what the loss compares the outputs with."""
        data = self._data
        if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
            with self._reading(0):
                data = data()
        apart = self.framework.taken_apart
        for number, batch in enumerate(self._batches(data, expected)):
            own = apart(data, batch)
            if own is not None:
                self._found = described(own[0])
                yield own[0], lambda own=own: own[1]
                continue
            inputs, target = self._split(batch, expected, number)
            self._found = described(inputs)
            yield self.framework.inputs(inputs), lambda target=target: self.framework.target(target)

    def last_seen(self) -> str:
        """What the model got last, in words."""
        return self._found

    def _batches(self, data: Any, expected: ModelInputs) -> Iterator[Any]:
        whole = self._whole(data, expected)
        if whole is not None:
            self._check_shapes(whole, expected)
            yield from _spread(whole, self.batch_size)
            return
        if isinstance(data, Mapping):
            raise ConfigError(f"{self.argument}: found {described(data)}, expected arrays of equally many samples in it")
        own = self.framework.items(data)
        is_map = own is None and not isinstance(data, tuple | list) and hasattr(data, "__getitem__") and hasattr(data, "__len__")
        if is_map:
            with self._reading(0):
                first = [data[0]] if len(data) else []
            samples = bool(first) and self._is_sample(data, first[0], expected, True)
            every = range(len(data))
            parts = [every[part] for part in _strides(len(data), self.batch_size)] if samples else [every]
            items = self._read(data[i] for part in parts for i in part)
            yield from self._stacked(items, map(len, parts)) if samples else items
            return
        start, of_samples = own or (lambda: data, False)
        items = self._read(start())
        first = list(islice(items, 1))
        samples = bool(first) and self._is_sample(data, first[0], expected, of_samples)
        items = _chained(first, items)
        yield from self._stacked(items, repeat(self.batch_size)) if samples else items

    def _whole(self, data: Any, expected: ModelInputs) -> Any:
        """`data` where these are all samples as arrays, as `fit` takes them; None where they are something to iterate."""
        if is_array(data):
            return data
        plain = _plain(data) if isinstance(data, Mapping | tuple | list) else None
        if isinstance(plain, Mapping):
            return plain if _samples_in(plain) is not None else None
        if isinstance(plain, list):  # of batches or samples, but where the model has several inputs and this is one for each
            several = expected.required is not None and len(expected.required) == len(plain) > 1
            return plain if several and all(map(is_array, plain)) and _samples_in(plain) is not None else None
        if not isinstance(plain, tuple) or not plain or _samples_in(plain) is None:
            return None
        nested = all(isinstance(part, tuple) for part in plain)
        if nested and expected.required is not None and expected.of(plain[0]) is None:
            return None
        if nested or (len(expected.required or (0,)) == 1 and _are_alike(plain)):
            raise ConfigError(
                f"{self.argument}: found {described(data)}, which may be (inputs, targets) or batches: give batches as a "
                "list, several inputs and targets as lists in a tuple, and targets like the inputs as [(inputs, targets), ...]"
            )
        return plain if len(plain) <= len(expected.required or (0,)) + 2 else None  # with a target and weights

    def _check_shapes(self, whole: Any, expected: ModelInputs) -> None:
        inputs, _ = self._split(whole, expected, 0)
        pairs = expected.of(inputs)
        if pairs is None or not all(_fits(x, each.shapes) for x, each in pairs if each.shapes):
            raise ConfigError(
                f"{self.argument}: the model does not run on the data: found {described(inputs)}, the model takes {expected}"
            )

    def _is_sample(self, data: Any, item: Any, expected: ModelInputs, by_habit: bool) -> bool:
        """Whether items are samples, not batches: by the shapes that the model takes, by a label that is one number, or by what
        such containers usually have."""
        if self.framework.taken_apart(data, item) is not None:
            return False
        inputs, target = self._split(item, expected, 0)
        pairs = expected.of(inputs)
        if not pairs or isinstance(inputs, list) and not all(map(is_array, inputs)):
            return by_habit
        known = all(each.shapes for _, each in pairs)
        as_batch = known and all(_fits(x, each.shapes) for x, each in pairs)
        as_sample = known and all(_fits(x, [shape[1:] for shape in each.shapes]) for x, each in pairs)
        if as_batch != as_sample:
            return as_sample
        if any(_shape(x) == () for x in (*arrays(target), *(x for x, _ in pairs))):
            return not (isinstance(data, list) and len(data) == 1)  # [(batch, 0)], where nobody needs the label
        if as_batch and as_sample:
            raise ConfigError(
                f"{self.argument}: found {described(item)}, which may be a batch or a sample of a model that takes {expected}: "
                "give batches whose labels are arrays, or all samples as one array"
            )
        return by_habit

    def _split(self, batch: Any, expected: ModelInputs, number: int) -> tuple[Any, Any]:
        """(inputs, target) as arrays, sequences and mappings."""
        batch = _plain(batch)
        if isinstance(batch, Mapping):
            return self._by_name(batch, expected), target_in(batch)
        if not isinstance(batch, tuple | list):
            return batch, None
        if not batch:
            raise ConfigError(f"{self.argument}: the data loader gave an empty batch (number {number})")
        first, *rest = batch
        needed = len(expected.required) if expected.required is not None else None
        if needed is not None and needed > 1 and len(batch) >= needed and all(is_array(x) for x in batch[:needed]):
            if expected.by == "name" or (len(batch) > needed + 1 and expected.optional):
                raise self._ambiguous(batch, expected)
            return list(batch[:needed]), batch[needed] if len(batch) > needed else None
        if len(batch) > 2 and len(expected.optional) + (needed or 0) > 1 and is_array(first) and len(_shape(batch[1])) > 1:
            raise self._ambiguous(batch, expected)
        return self._by_name(first, expected) if isinstance(first, Mapping) else first, rest[0] if rest else None

    def _ambiguous(self, batch: Any, expected: ModelInputs) -> ConfigError:
        return ConfigError(
            f"{self.argument}: found {described(batch)}, and cannot tell the inputs of a model that takes {expected} from the "
            "target and its weights: give ((inputs...), target), or a dict by the names of the arguments"
        )

    def _by_name(self, entries: Mapping[str, Any], expected: ModelInputs) -> Any:
        """What of a mapping goes to the model: all but the target and what has another name than any argument."""
        required = [each.name for each in expected.required or ()]
        entries = {**entries, **expected.made(entries)}
        given = {name: value for name, value in entries.items() if not _is_target(name) or name in required}
        if expected.required is None:
            return given
        missing = [name for name in required if name not in given]
        if missing and len(required) == len(given) == 1:
            return next(iter(given.values()))
        if missing:
            raise ConfigError(f"{self.argument}: found {described(entries)}, but the model takes {expected}")
        taken = {*required, *(each.name for each in expected.optional)}
        left = [str(name) for name in given if name not in taken]
        if left and not self._told.issuperset(left):
            self._told.update(left)
            warnings.warn(
                f"{self.argument}: {', '.join(left)} is left out: the model, which takes {expected}, has no such argument",
                DataWarning,
                stacklevel=2,
            )
        if expected.by == "order":
            return given[required[0]] if len(required) == 1 else [given[name] for name in required]
        return {name: value for name, value in given.items() if name in taken}

    def _stacked(self, samples: Iterator[Any], sizes: Iterable[int]) -> Iterator[Any]:
        for size in sizes:
            part = [_plain(sample) for sample in islice(samples, size)]
            if not part:
                return
            yield self._as_batch(part)

    def _as_batch(self, samples: list[Any]) -> Any:
        first = samples[0]
        if isinstance(first, Mapping):
            return {name: self._as_batch([sample[name] for sample in samples]) for name in first}
        if isinstance(first, tuple | list):
            return type(first)(self._as_batch([sample[i] for sample in samples]) for i in range(len(first)))
        if first is None or isinstance(first, str | bytes):
            return None if first is None else list(samples)
        try:
            return self.framework.stacked(samples)
        except (TypeError, ValueError, RuntimeError):
            kinds = ", ".join(dict.fromkeys(map(described, samples)))
            raise ConfigError(
                f"{self.argument}: found samples that make no batch ({kinds}), expected arrays of one shape: pad or resize them, "
                "or give batches"
            ) from None

    def _read(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items; what goes wrong while they are made is the data's fault."""
        with self._reading(0):
            iterator = iter(items)
        number = 0
        while True:
            with self._reading(number):
                found = list(islice(iterator, 1))
            if not found:
                return
            number += 1
            yield found[0]

    @contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.argument}: the data themselves failed at item {number}, before the model saw it: "
                f"{type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True)
class Batches:
    """Batches of `data` for one model, anew at every call: its inputs, or, `labelled`, pieces of (inputs, target)."""

    data: Data
    labelled: bool = False
    expected: ModelInputs = ModelInputs()

    def of(self, expected: ModelInputs) -> Batches:
        return replace(self, expected=expected)

    def __call__(self) -> Iterator[Any]:
        for inputs, target in self.data.batches(self.expected):
            if self.labelled:
                yield from self.data.framework.micro_batches(inputs, target())
            else:
                yield inputs

    def last_seen(self) -> str:
        """What the model got last and what it takes, in words."""
        return f" (found {self.data.last_seen()}; the model takes {self.expected})" if self.data.last_seen() else ""


class _Replayed:
    """Something that can be read once, as often as one likes: what has been read is kept."""

    def __init__(self, items: Iterator[Any]):
        self._items = items
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        number = 0
        while True:
            if number == len(self._kept):
                self._kept.extend(islice(self._items, 1))
            if number == len(self._kept):
                return
            yield self._kept[number]
            number += 1


def refuse_one_shot(data: Any, argument: str, function: str) -> None:
    """ConfigError where `function` of the user's would get a generator: it is called more than once."""
    if isinstance(data, Iterator):
        raise ConfigError(
            f"{argument}: found {described(data)}, which can be read once, but {function} reads it several times: expected a "
            "loader, a dataset or a list"
        )


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "__getitem__") and not isinstance(value, Mapping)


def arrays(structure: Any) -> Iterator[Any]:
    """The arrays and numbers in nested tuples, lists and mappings."""
    if isinstance(structure, Mapping | tuple | list):
        for item in structure.values() if isinstance(structure, Mapping) else structure:
            yield from arrays(item)
    elif is_array(structure) or isinstance(structure, int | float | complex):
        yield structure


def described(value: Any) -> str:
    """What kind of data it is, in words: types and shapes, no values."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        shown = [described(item) for item in value[:3]] + ([f"... {len(value)} in all"] if len(value) > 3 else [])
        return f"({', '.join(shown)})" if isinstance(value, tuple) else f"[{', '.join(shown)}]"
    if is_array(value):
        dtype = getattr(value, "dtype", "")
        kind = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
        return f"{kind} {tuple(value.shape)}".strip()
    if hasattr(value, "args") and hasattr(value, "kwargs"):  # a call
        return ", ".join([*map(described, value.args), *(f"{name}: {described(x)}" for name, x in value.kwargs.items())])
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _is_data(data: Any) -> bool:
    return is_array(data) or hasattr(data, "__iter__") or hasattr(data, "__getitem__") or callable(data)


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(getattr(value, "shape", ()))


def _plain(value: Any) -> Any:
    """With tuples for named tuples, dicts for other mappings, and arrays for lists of numbers inside of them."""
    if isinstance(value, Mapping):
        return {key: _inner(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(_inner(item) for item in value)
    return value


def _inner(value: Any) -> Any:
    if isinstance(value, list) and _are_numbers(value):
        try:
            return np.asarray(value)
        except ValueError:  # of different lengths
            return value
    return _plain(value)


def _are_numbers(value: Sequence[Any]) -> bool:
    return bool(value) and all(_are_numbers(x) if isinstance(x, list) else isinstance(x, int | float) for x in value)


def _samples_in(structure: Any) -> int | None:
    """How many samples all arrays in it have; None where they differ or something else is among them."""
    sizes = set()
    stack = [structure]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping | tuple | list):
            stack.extend(value.values() if isinstance(value, Mapping) else value)
        elif not is_array(value) or not len(value.shape):
            return None
        else:
            sizes.add(value.shape[0])
    return sizes.pop() if len(sizes) == 1 else None


def _are_alike(parts: Sequence[Any]) -> bool:
    """Whether these are arrays of one shape and type, as those are that a tensor is split into."""
    kinds = {(_shape(x), str(getattr(x, "dtype", ""))) for x in parts if is_array(x)}
    return len(parts) > 1 and all(map(is_array, parts)) and len(kinds) == 1 and len(next(iter(kinds))[0]) > 1


def _strides(samples: int, size: int) -> list[slice]:
    """Parts of at most `size` samples, each from all over the data: these are often sorted by class."""
    count = math.ceil(samples / size)
    return [slice(start, None, count) for start in range(count)]


def _spread(structure: Any, size: int) -> Iterator[Any]:
    for part in _strides(_samples_in(structure) or 0, size):
        yield _cut(structure, part)


def _cut(value: Any, part: slice) -> Any:
    if isinstance(value, Mapping):
        return {key: _cut(item, part) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_cut(item, part) for item in value)
    return value[part]


def _fits(x: Any, shapes: Iterable[Sequence[int | None]]) -> bool:
    own = _shape(x)
    return any(
        len(own) == len(shape) and all(size in (None, mine) or mine is None for size, mine in zip(shape, own, strict=True))
        for shape in shapes
    )


def _chained(first: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from first
    yield from rest


def model_inputs(framework: Framework, model: Any, data: Any, argument: str) -> Iterator[Any]:
    """Model inputs, in batches, from what a user gave as `argument`."""
    return Batches(Data(data, framework, argument), expected=framework.expected(model))()
