"""Hidden units of recurrent layers (see `groups.py`): what of a cell's parameters a unit is, and where it goes.

A unit of an LSTM, a GRU or a plain RNN is a row for each gate in the kernel, in the recurrent kernel and in the biases, a column
of the recurrent kernel, and an element of the state, which every step passes on (Wen et al. 2018, "Learning Intrinsic Sparse
Structures within Long Short-Term Memory", section 3). With all of its rows zero and a first state of zero the unit stays zero:
an LSTM adds i * tanh(0) to its memory, a GRU mixes tanh(0) and the state before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncf_ext.channels.flow import NotFollowed, Step, Tensor, known, not_zero
from nncf_ext.graph import Parameter
from nncf_ext.ops import Cell, cells

States = Sequence[np.ndarray]  # the units of what a cell passes on: its output, and an LSTM's memory


def recurrent(step: Step) -> dict[int, Tensor]:
    """See `nncf_ext.graph.Node` for the attributes. Two directions have one number of units, so that these go together."""
    sequence = step.inputs.get(0)
    directions = cells(step.node)
    if sequence is None or not directions:
        raise NotFollowed
    last = len(sequence.shape) - 1
    sequence = step.together(sequence, range(last), "reads them step by step")
    if set(sequence.varying) - {last}:
        raise NotFollowed
    offset = not_zero(step) if step.node.attrs.get("never_zero") else ""
    found: list[States] = []
    for stack in directions:
        read = sequence
        for cell in stack:
            found.append(_cell(step, read, cell, offset))
            read = Tensor(found[-1][0].shape, found[-1][0], offset)
    for one, other in zip(found, found[len(directions[0]) :], strict=False):
        for a, b in zip(one, other, strict=True):
            if a.shape == b.shape:
                step.units.link(a, b)
    if step.node.attrs.get("stateful"):
        for state in (state for states in found for state in states):
            step.units.block(state, f"{step} keeps its states from batch to batch")
    _begin(step, found)
    made = {}
    for port, shape in step.shapes.items():
        axis, places = step.attr("results")[port]
        made[port] = Tensor(known(shape), _laid_out(found, axis, places, len(shape)), offset)
    return made


def _cell(step: Step, x: Tensor, cell: Cell, offset: str) -> States:
    """Units of the states of one cell, which reads `x` along its last axis. A projected LSTM has others in its memory."""
    units = step.units
    step.consume(x, cell.kernel, {_input(cell.kernel): len(x.shape) - 1})
    rows = [units.of(step.node, weight, (_output(weight),), "output") for weight in (cell.kernel, cell.recurrence)]
    rows += [units.of(step.node, bias, (_output(bias),), "follower") for bias in cell.biases]
    state, *others = [units.together(ids.reshape(-1, cell.size), [0], f"{step} has one unit")[0] for ids in rows]
    for other in others:
        units.link(state, other)
    memory = state
    if cell.projection is not None:
        step.consume(Tensor(memory.shape, memory, offset), cell.projection, {_input(cell.projection): 0})
        state = step.make(cell.projection, {_output(cell.projection): 0}, (cell.projection.shape[_output(cell.projection)],)).ids
    step.consume(Tensor(state.shape, state, offset), cell.recurrence, {_input(cell.recurrence): 0})
    return state, memory


def _begin(step: Step, found: Sequence[States]) -> None:
    """First states go along. Zeros that the model makes do so as well: all layers that begin with them have as many units."""
    for port, (axis, places) in step.node.attrs.get("states", {}).items():
        first = step.inputs.get(port)
        if first is None:
            for cell, state in places:
                step.units.block(found[cell][state], f"{step} begins with a state that has a fixed number of channels")
            continue
        rank = len(first.shape)
        own = _laid_out(found, axis, places, rank)
        if own.shape[-1] != first.shape[-1]:
            raise NotFollowed
        if first.zeros:
            made = step.units.made(first.zeros, first.shape[-1])
            step.units.link(own, made)
            continue
        first = step.together(first, range(0 if own.shape[0] == 1 else 1, rank - 1), "begins with them")
        step.units.link(own, first.ids)
        if first.offset:
            step.units.block(own, first.offset)
        step.units.block(np.where(first.ids < 0, own, -1), f"{step} begins with a state that has a fixed number of channels")


def _laid_out(found: Sequence[States], axis: int | None, places: Sequence[tuple[int, int]], rank: int) -> np.ndarray:
    """Units of some states as a tensor of that rank: one after the other along `axis`; None: combined element by element."""
    laid = [found[cell][state].reshape((1,) * (rank - 1) + (-1,)) for cell, state in places]
    if axis is None and len({ids.shape for ids in laid}) > 1:
        raise NotFollowed
    return laid[0] if axis is None else np.concatenate(laid, axis)


def _output(parameter: Parameter) -> int:
    if parameter.channel_axis is None:
        raise NotFollowed
    return parameter.channel_axis


def _input(parameter: Parameter) -> int:
    if parameter.input_axis is None:
        raise NotFollowed
    return parameter.input_axis
