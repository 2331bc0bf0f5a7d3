"""Edited functions of a module as they are called in the forward that it makes now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.function_mode import FunctionEdits
from nncf_ext_torch.programs import Ambiguous, Program, found_again, key_of
from nncf_ext_torch.trace import program_of


@dataclass(frozen=True)
class Table:
    """Edited functions, and in which order they are called (as indices of `functions`)."""

    functions: tuple[FunctionEdits, ...]
    order: tuple[int, ...]


def table_of(edits: Any, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], forward: Callable[..., Any]) -> Table:
    """The functions of `edits` (a ModuleEdits) where `forward` calls them, which is run once for it and leaves no trace.

    RuntimeError where an edited call is not found for certain among others of the same function.
    """
    program = program_of(module, args, kwargs, forward)
    wanted = [(entry.function, index) for entry in edits.functions for index in entry.calls]
    try:
        found = found_again(wanted, edits.program, program, same_outputs=torch.compiler.is_exporting())
    except Ambiguous as error:
        mode = "training" if module.training else "inference"
        raise RuntimeError(
            f"{edits.label} calls {error} in {mode} in other places than when it was traced, so that it is not certain which "
            "call is the one that is compressed: expected ignored_scopes for it, or the arguments with which it was traced"
        ) from None
    totals = Counter(call.function for call in program)
    functions = []
    for entry in edits.functions:
        moved = {found[entry.function, index]: call for index, call in entry.calls.items()}
        calls = {index: call for index, call in moved.items() if index is not None}
        functions.append(FunctionEdits(entry.function, totals[key_of(entry.function)], calls))
    return Table(tuple(functions), _order(functions, program))


def _order(functions: Sequence[FunctionEdits], program: Program) -> tuple[int, ...]:
    positions = {key_of(entry.function): position for position, entry in enumerate(functions)}
    return tuple(positions[call.function] for call in program if call.function in positions)
