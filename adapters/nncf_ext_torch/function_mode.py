"""Transforms on operators that no module of their own runs: a function mode, entered in one container only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nncf_ext_torch import recurrent
from nncf_ext_torch.programs import look
from nncf_ext_torch.trace import Argument, is_bookkeeping, unfolded

Step = Callable[[torch.Tensor, bool], torch.Tensor]  # (tensor, training) -> tensor


# What `torch.compile` shows to a function mode where eager mode shows another function. Some functions it does not show at all
# (functional `pad`, `hardswish`, `hardsigmoid`, `tanh`, `sigmoid`, properties like `x.T`): edits on them do not compile.
_AS_COMPILED: dict[Any, Callable[..., Any]] = {torch.nn.functional.rms_norm: torch.rms_norm}


@dataclass
class CallEdits:
    """What happens to one call: steps on its arguments, steps on a tensor of its result."""

    inputs: list[tuple[Argument, tuple[Step, ...]]] = field(default_factory=list)
    outputs: list[tuple[tuple[int | str, ...], tuple[Step, ...]]] = field(default_factory=list)

    def with_steps(self, steps: Mapping[Step, Step]) -> CallEdits:
        """The same with what `steps` gives for each step, without those of which it knows nothing."""
        inputs = [(argument, replaced(chain, steps)) for argument, chain in self.inputs]
        outputs = [(path, replaced(chain, steps)) for path, chain in self.outputs]
        return CallEdits([i for i in inputs if i[1]], [o for o in outputs if o[1]])


def replaced(chain: tuple[Step, ...], steps: Mapping[Step, Step]) -> tuple[Step, ...]:
    return tuple(steps[step] for step in chain if step in steps)


@dataclass
class FunctionEdits:
    """A function that is called `total` times in the container, and the calls of it that are edited, by index."""

    function: Callable[..., Any]
    total: int
    calls: dict[int, CallEdits] = field(default_factory=dict)
    compiled: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        self.compiled = _AS_COMPILED.get(self.function, self.function)

    def __deepcopy__(self, memo: Any) -> FunctionEdits:
        """With the same function: that of a property (`tensor.real`) cannot be copied."""
        memo[id(self)] = other = FunctionEdits(self.function, self.total, copy.deepcopy(self.calls, memo))
        return other

    def with_steps(self, steps: Mapping[Step, Step]) -> FunctionEdits:
        """As `CallEdits.with_steps`."""
        calls = {index: call.with_steps(steps) for index, call in self.calls.items()}
        return FunctionEdits(self.function, self.total, {i: c for i, c in calls.items() if c.inputs or c.outputs})


class FunctionMode(TorchFunctionMode):
    """Counts the calls of the listed functions and edits some of them. One instance serves one forward of the container.

    `torch.compile` traces through it and knows no sets or dicts of functions: hence the search.
    """

    def __init__(self, table: Sequence[FunctionEdits], training: bool, order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.table = table
        self.order = order
        self.seen: list[int] = []  # which of the functions, in order
        self.training = training
        self.counts = [0] * len(table)
        self.depth = 0 if torch.compiler.is_dynamo_compiling() else look.depth
        unfolding = (torch.nn.functional.multi_head_attention_forward, *recurrent.FUNCTIONS)
        self.looked_for = {*unfolding, *(entry.function for entry in table)}

    def begun(self) -> FunctionMode:
        """Another one that stands where this one has got to."""
        other = FunctionMode(self.table, self.training)
        other.counts = list(self.counts)
        return other

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.compiler.is_dynamo_compiling() and (func not in self.looked_for or look.depth != self.depth):
            return func(*args, **kwargs)
        body = unfolded(func, args)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        for position, entry in enumerate(self.table):
            if (func == entry.function or func == entry.compiled) and not is_bookkeeping(func, args):
                index = self.counts[position]
                self.counts[position] = index + 1
                if not torch.compiler.is_dynamo_compiling():
                    self.seen.append(position)
                if index in entry.calls:
                    return self._edited(entry.calls[index], _compilable(func), args, kwargs)
                break
        return _compilable(func)(*args, **kwargs)

    def _edited(self, call: CallEdits, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        for argument, steps in call.inputs:
            args, kwargs = edited_arguments(args, kwargs, argument, steps, self.training)
        output = func(*args, **kwargs)
        for path, steps in call.outputs:
            output = edited_item(output, path, steps, self.training)
        return output

    def fits(self) -> bool:
        """Whether the container called the listed functions in the order in which it did before."""
        return self.order is not None and self.seen == list(self.order)

    def check(self, container: str) -> None:
        """RuntimeError where the container did not call what it called when it was traced: the counts identify the operators."""
        for position, entry in enumerate(self.table):
            if self.counts[position] != entry.total:
                raise RuntimeError(
                    f"{container} called {getattr(entry.function, '__name__', entry.function)} {self.counts[position]} times, "
                    f"but {entry.total} times when it was traced: edited operators cannot be told apart in a forward that varies"
                )


def _compilable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, where `torch.compile` cannot trace a call of it from a mode (the method `unflatten` calls its super)."""
    return torch.unflatten if function is torch.Tensor.unflatten else function


def edited_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], argument: Argument, steps: tuple[Step, ...], training: bool
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """(args, kwargs) with `steps` applied to one tensor among them. RuntimeError where it was not given."""
    if argument.name is not None and argument.name in kwargs:
        value = edited_item(kwargs[argument.name], argument.item, steps, training)
        return args, {**kwargs, argument.name: value}
    position = argument.position
    if position is None or position >= len(args):
        raise RuntimeError(f"argument {argument.name or position} of a compressed operator was not given, as it was when traced")
    value = edited_item(args[position], argument.item, steps, training)
    return (*args[:position], value, *args[position + 1 :]), kwargs


def is_given(args: tuple[Any, ...], kwargs: Mapping[str, Any], argument: Argument) -> bool:
    """Whether there is such an argument, and it is not None."""
    if argument.name is not None and argument.name in kwargs:
        return kwargs[argument.name] is not None
    return argument.position is not None and argument.position < len(args) and args[argument.position] is not None


def tensor_at(args: tuple[Any, ...], kwargs: Mapping[str, Any], argument: Argument) -> bool:
    """Whether a given argument is, as it was when traced, a tensor or has one in it."""
    value = kwargs[argument.name] if argument.name is not None and argument.name in kwargs else args[argument.position or 0]
    return isinstance(value, torch.Tensor) == (not argument.item)


def edited_item(value: Any, path: tuple[int | str, ...], steps: tuple[Step, ...], training: bool) -> Any:
    """`value` with `steps` applied to the tensor that `path` leads to."""
    if not path:
        for step in steps:
            value = step(value, training)
        return value
    key = path[0]
    if isinstance(value, list | tuple):
        items: list[Any] = list(value)
        items[int(key)] = edited_item(items[int(key)], path[1:], steps, training)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        changed = {**value, key: edited_item(value[key], path[1:], steps, training)}
        return changed if type(value) is dict else type(value)(**changed)
    return dataclasses.replace(value, **{str(key): edited_item(getattr(value, str(key)), path[1:], steps, training)})
