"""Recurrent layers of Keras: which cells, whose weights are the layer's, a layer runs step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as L

from nncf_ext_tensorflow.keras_private import unpatched_class
from nncf_ext_tensorflow.operators import Weight

_CELLS = {L.LSTMCell: "LSTM", L.GRUCell: "GRU", L.SimpleRNNCell: "RNN"}
_LAYERS = {L.LSTM, L.GRU, L.SimpleRNN, L.RNN}

Cells = list[tuple[str, Any]]  # what the names of a cell's weights begin with in the layer's node, and the cell


def cells_of(layer: Any) -> Cells | None:
    """The cells of Keras' own that `layer` is or runs, and nothing else; None for any other layer.

    A user's subclass counts as its parent where it does not override `call`.
    """
    if isinstance(layer, L.Bidirectional):
        if not _runs(layer, {L.Bidirectional}):
            return None
        forward, backward = cells_of(layer.forward_layer), cells_of(layer.backward_layer)
        if forward is None or backward is None:
            return None
        return [(f"forward/{start}", cell) for start, cell in forward] + [(f"backward/{start}", cell) for start, cell in backward]
    if isinstance(layer, L.RNN):
        return cells_of(layer.cell) if _runs(layer, _LAYERS) else None
    if isinstance(layer, L.StackedRNNCells):
        found = [cells_of(cell) for cell in layer.cells] if _runs(layer, {L.StackedRNNCells}) else [None]
        return None if None in found else [(f"{i}/{start}", c) for i, own in enumerate(found) for start, c in own or ()]
    return [("", layer)] if _runs(layer, set(_CELLS)) else None


def operator_of(cells: Cells) -> str:
    """ONNX's operator: of the last cell, which makes the output."""
    return next(op for kind, op in _CELLS.items() if isinstance(cells[-1][1], kind))


def is_step(layer: Any) -> bool:
    """Whether a call of the layer is one step of a sequence."""
    return not isinstance(layer, L.RNN | L.Bidirectional)


def weights_of(start: str, cell: Any) -> list[Weight]:
    """(inputs, gates * channels); the port is ONNX's."""
    found = [Weight(f"{start}kernel", "kernel", 1, 1, 0), Weight(f"{start}recurrent_kernel", "recurrent_kernel", 1, 2, 0)]
    if isinstance(getattr(cell, "bias", None), keras.Variable):
        found.append(Weight(f"{start}bias", "bias", len(cell.bias.shape) - 1, 3))
    return found


def flow(layer: Any, cells: Cells, states: Sequence[int], results: int) -> dict[str, Any]:
    """What `nncf_ext.graph.Node` says of a recurrent operator. states: ports of first states; results: number of its outputs."""
    stacks, merge = [cells], "concat"
    if isinstance(layer, L.Bidirectional):
        split, merge = len(cells_of(layer.forward_layer) or ()), layer.merge_mode
        stacks = [cells[:split], cells[split:]]
    ends = tuple((sum(map(len, stacks[: i + 1])) - 1, 0) for i in range(len(stacks)))
    puts_out = [(-1, (end,)) for end in ends] if merge is None else [(-1 if merge == "concat" else None, ends)]
    passed = [(-1, ((i, k),)) for i, (_, cell) in enumerate(cells) for k in range(2 if isinstance(cell, L.LSTMCell) else 1)]
    if len(states) not in (0, len(passed)) or results not in (len(puts_out), len(puts_out) + len(passed)):
        return {}
    found = {
        "directions": tuple(tuple(tuple(weight.slot for weight in weights_of(*each)) for each in stack) for stack in stacks),
        "states": dict(zip(states, passed, strict=False)),
        "results": dict(enumerate((*puts_out, *passed)[:results])),
        "never_zero": not all(_keeps_zero(cell.activation) for _, cell in cells),
        "stateful": getattr(layer, "stateful", False),
    }
    return {name: value for name, value in found.items() if value}


def is_state(at: Sequence[Any]) -> bool:
    """Whether what is there among the arguments (args, kwargs) of a call is a first state."""
    return tuple(at[:2]) in ((0, 1), (1, "initial_state"), (1, "states"))


def _keeps_zero(function: Callable[..., Any]) -> bool:
    """Whether it is one of Keras' own, and zero at zero."""
    if getattr(keras.activations, getattr(function, "__name__", ""), None) is not function:
        return False
    return not np.any(keras.ops.convert_to_numpy(function(keras.ops.zeros((1, 2)))))


def _runs(layer: Any, kinds: set[type]) -> bool:
    """Whether what runs is the `call` of one of `kinds`."""
    own: Any = unpatched_class(layer)
    return any(isinstance(layer, kind) and own.call is kind.call for kind in kinds)
