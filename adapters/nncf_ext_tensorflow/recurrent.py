"""Recurrent layers of Keras: which cells, whose weights are the layer's, a layer runs step by step."""

from __future__ import annotations

from typing import Any

import keras
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


def _runs(layer: Any, kinds: set[type]) -> bool:
    """Whether what runs is the `call` of one of `kinds`."""
    own: Any = unpatched_class(layer)
    return any(isinstance(layer, kind) and own.call is kind.call for kind in kinds)
