"""Which functions a module calls, in order, and where the calls of one forward are found again in another.

A forward in training may call others than the one that was traced in inference: detectors return raw maps, losses are computed,
stochastic depth multiplies. Calls are told by the module they are made in, the function, and what their tensors are.
"""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from nncf_ext_torch.torch_private import version_of, without_function_modes

Function = Callable[..., Any]


@dataclass(frozen=True)
class FunctionCall:
    """One call in the forward of a container.

    module: the innermost module around it, seen from the container. function: its `key_of`. index: how often it had been called
    before. operands: what each tensor among its arguments is: an argument of the module, the result of a call, or something else;
    and plain arguments.
    """

    module: str
    function: Hashable
    index: int
    operands: tuple[tuple[Hashable, ...], ...]


class Program(tuple[FunctionCall, ...]):
    """The calls that return tensors, in order."""

    def __deepcopy__(self, memo: Any) -> Program:
        return self


def key_of(function: Function) -> Hashable:
    """The function itself, or the name of a property of tensors, whose getter cannot be pickled."""
    return f"Tensor.{function.__self__.__name__}" if getattr(function, "__name__", "") == "__get__" else function


@dataclass(frozen=True)
class _Logged:
    stack: tuple[str, ...]
    function: Function
    counts: Mapping[str, int]
    operands: tuple[tuple[str, Hashable], ...]
    makes_tensors: bool


class CallLog:
    """The calls of one forward, as they come."""

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, Function]] = Counter()
        self._calls: list[_Logged] = []
        self._makers = WeakTensorKeyDictionary()  # tensor -> number of the call that made it

    def add(
        self,
        stack: Sequence[tuple[str, Mapping[int, Hashable]]],
        function: Function,
        operands: Sequence[Any],
        made: Sequence[torch.Tensor],
    ) -> Mapping[str, int]:
        """One call. stack: the running modules from the outermost to the innermost, each with its arguments by id; operands:
        tensors and plain values; made: tensors that it returned or wrote into. How often each module had called it before."""
        counts = {name: self.totals[name, function] for name, _ in stack}
        for name in counts:
            self.totals[name, function] += 1
        given = stack[-1][1]
        seen: list[tuple[str, Hashable]] = []
        for x in operands:
            if not isinstance(x, torch.Tensor):
                seen.append(("plain", x if isinstance(x, int | float | str | bool | None) else type(x).__name__))
            elif id(x) in given:
                seen.append(("argument", given[id(x)]))
            else:
                seen.append(("made", self._makers.get(x)))
        self._calls.append(_Logged(tuple(name for name, _ in stack), function, counts, tuple(seen), bool(made)))
        for tensor in made:
            self._makers[tensor] = len(self._calls) - 1
        return counts

    def returned(self, module: str, tensor: torch.Tensor) -> None:
        """What a module returns is the result of its last call, where no call made it: it passed a transform."""
        if tensor not in self._makers and self._calls and module in self._calls[-1].stack:
            self._makers[tensor] = len(self._calls) - 1

    def program(self, container: str) -> Program:
        """What was called while `container` ran; it has to have run once."""
        inside = (call for call in self._calls if call.makes_tensors and container in call.stack)
        return Program(self._seen_from(container, call) for call in inside)

    def _seen_from(self, container: str, call: _Logged) -> FunctionCall:
        operands = tuple(self._label(container, kind, value) for kind, value in call.operands)
        return FunctionCall(_below(container, call.stack[-1]), key_of(call.function), call.counts[container], operands)

    def _label(self, container: str, kind: str, value: Any) -> tuple[Hashable, ...]:
        if kind != "made":
            return kind, value
        maker = None if value is None else self._calls[value]
        if maker is None or container not in maker.stack:
            return kind, None
        return kind, _below(container, maker.stack[-1]), getattr(maker.function, "__name__", "")


def _below(container: str, module: str) -> str:
    return module if not container else module[len(container) + 1 :]


class _Look(threading.local):
    depth = 0


look = (
    _Look()
)  # how many forwards are being run only to see what they call, one inside the other; a mode is of the one it began in


@contextmanager
def nothing_kept(module: nn.Module) -> Iterator[None]:
    """A forward inside leaves no trace: buffers and random generators are afterwards what they were, modes around see nothing."""
    if torch.compiler.is_exporting():  # in inference, and what is not part of the outputs goes
        look.depth += 1
        try:
            yield
        finally:
            look.depth -= 1
        return
    with without_function_modes():
        buffers = [(buffer, _version(buffer), buffer.clone()) for buffer in module.buffers()]
    generators = random.getstate(), np.random.get_state()
    devices = [buffer.device for buffer, _, _ in buffers] + [parameter.device for parameter in module.parameters()]
    look.depth += 1
    try:
        with torch.no_grad(), torch.random.fork_rng(sorted({d.index or 0 for d in devices if d.type == "cuda"})):
            yield
    finally:
        look.depth -= 1
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        with torch.no_grad(), without_function_modes():
            for buffer, version, value in buffers:
                if not _is_as_before(buffer, version, value):  # autograd refuses what it keeps, and was written into
                    buffer.copy_(value)


def _is_as_before(tensor: torch.Tensor, version: int | None, value: torch.Tensor) -> bool:
    """By its values too: BatchNorm's operators write into statistics and do not count it."""
    return version is not None and version == _version(tensor) and (tensor.is_meta or torch.equal(tensor, value))


def _version(tensor: torch.Tensor) -> int | None:
    """How often it was written into; None where nobody counts."""
    return None if tensor.is_inference() else version_of(tensor)


def own_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for a forward that is only looked at: tensors that it may write to and caches that it may add to are its own."""
    memo: dict[int, Any] = {}
    seen: set[int] = set()
    left: list[Any] = [*args, *kwargs.values()]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Parameter | nn.Module):
            memo[id(value)] = value
        elif isinstance(value, torch.Tensor):
            memo[id(value)] = value.clone()
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, tuple | list):
            left += value
        else:
            left += getattr(value, "__dict__", {}).values()
    try:
        return copy.deepcopy((tuple(args), dict(kwargs)), memo)
    except Exception as error:  # whatever a user's class may raise
        kinds = ", ".join(dict.fromkeys(type(value).__name__ for value in (*args, *kwargs.values()) if id(value) not in memo))
        warnings.warn(
            f"the first forward runs twice on {kinds}, which cannot be copied ({error}): what it writes there is written twice",
            stacklevel=2,
        )
        return tuple(args), dict(kwargs)


class Ambiguous(Exception):
    """A call is found again nowhere for certain."""


def found_again(
    wanted: Sequence[tuple[Function, int]], known: Program, other: Program, same_outputs: bool = False
) -> dict[tuple[Function, int], int | None]:
    """Where the `wanted` calls (function, index) of the program `known` are in `other`: the index there, None where it has none.

    That is the alignment of most calls, with operands that agree as far as possible. Ambiguous where several are as good and
    differ in a wanted call, and where what is found has no operand in common. same_outputs: both programs compute the same, so
    that a call at that place is the one that is looked for, whatever was put in front of it (a mask of zeros).
    """
    if [(call.module, call.function) for call in known] == [(call.module, call.function) for call in other]:
        indices = {(call.function, call.index): its.index for call, its in zip(known, other, strict=True)}
        return {(function, index): indices[key_of(function), index] for function, index in wanted}
    scores = _scores(known, other)
    before = _best(scores)
    after = _best(scores[::-1, ::-1])[::-1, ::-1]
    best = before[-1, -1]
    places = {(call.function, call.index): place for place, call in enumerate(known)}
    found: dict[tuple[Function, int], int | None] = {}
    for function, index in wanted:
        place = places[key_of(function), index]
        through = before[place, :-1] + scores[place] + after[place + 1, 1:]
        candidates = np.flatnonzero((scores[place] > 0) & (through == best))
        may_be_missing = bool((before[place] + after[place + 1] == best).any())
        if len(candidates) == 0:
            left = (before[:, :-1] + after[:, 1:] == best).any(0) & (scores[place] > 0)
            if left.any():
                raise Ambiguous(getattr(function, "__name__", str(function)))
            found[function, index] = None
        elif len(candidates) > 1 or may_be_missing or (scores[place, candidates[0]] == _SAME_CALL and not same_outputs):
            raise Ambiguous(getattr(function, "__name__", str(function)))
        else:
            found[function, index] = other[candidates[0]].index
    return found


_SAME_CALL = 1000  # the worth of a call with the same function in the same module; each operand that agrees adds one


def _scores(ours: Sequence[FunctionCall], theirs: Sequence[FunctionCall]) -> np.ndarray:
    scores = np.zeros((len(ours), len(theirs)), np.int64)
    places: dict[tuple[str, Hashable], list[int]] = {}
    for place, call in enumerate(theirs):
        places.setdefault((call.module, call.function), []).append(place)
    for row, call in enumerate(ours):
        for place in places.get((call.module, call.function), ()):
            same = [a for a, b in zip(call.operands, theirs[place].operands, strict=False) if a == b]
            plain = sum(operand[0] == "plain" for operand in same)
            unknown = sum(operand == ("made", None) for operand in same)
            scores[row, place] = _SAME_CALL + 10 * (len(same) - plain - unknown) + 5 * unknown
            if len(same) > plain:  # no weight where no tensor agrees
                scores[row, place] += plain
    return scores


def _best(scores: np.ndarray) -> np.ndarray:
    """The worth of the best alignment of the first rows and columns, for every number of both."""
    best = np.zeros((scores.shape[0] + 1, scores.shape[1] + 1), np.int64)
    for row in range(scores.shape[0]):
        matched = np.where(scores[row] > 0, best[row, :-1] + scores[row], 0)
        best[row + 1, 1:] = np.maximum.accumulate(np.maximum(best[row, 1:], matched))
    return best
