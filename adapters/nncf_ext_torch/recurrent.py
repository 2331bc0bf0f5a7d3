"""Recurrent layers of torch: which of their function's arguments are what, and the same layers one call each.

`nn.LSTM`, `nn.GRU` and `nn.RNN` run all their layers in one call of a function (`torch.lstm`, ...), which gets the parameters as
one list; the cells run one step. For ONNX every layer is an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FUNCTIONS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
CELLS = frozenset({"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"})
SEQUENCES = frozenset(function.__name__ for function in FUNCTIONS)
ALL = 9  # arguments of a sequence's function, packed or not, as torch's layers call it

_W, _R, _BIAS, _STATES = 1, 2, 3, 5  # ONNX's ports
_MADE = 16  # from here on ports of parameters that the model computes


class Operand(NamedTuple):
    """A tensor that one call reads, its place (position among the arguments, items inside) and its port."""

    port: int
    tensor: Tensor
    position: int
    item: tuple[int | str, ...] = ()


class Operands(NamedTuple):
    """activations: the sequence, or the step's input, and the first states. parameters: W, R and biases of every direction."""

    activations: list[Operand]
    parameters: list[Operand]


def is_recurrent(function: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether this is a call as torch's own layers make it: with all arguments by position."""
    name = _name(function)
    return len(args) in (4, 6) if name in CELLS else name in SEQUENCES and len(args) == ALL


def operands(function: Callable[..., Any], args: Sequence[Any]) -> Operands:
    """What a call that `is_recurrent` reads. A projection of an LSTM is of R's kind."""
    if _name(function) in CELLS:
        states_at, listed = 1, list(enumerate(args[2:6]))
        parameters = [Operand((_W, _R, _BIAS, _BIAS)[i], tensor, i + 2) for i, tensor in listed if tensor is not None]
    else:
        states_at = 1 + _is_packed(args)
        listed, has_biases = args[states_at + 1], args[states_at + 2]
        kinds = [_W, _R, *([_BIAS, _BIAS] if has_biases else []), *([_R] if _is_projected(args[states_at]) else [])]
        parameters = [Operand(kinds[i % len(kinds)], tensor, states_at + 1, (i,)) for i, tensor in enumerate(listed)]
    states = args[states_at]
    if _is_list(states):
        first = [Operand(_STATES + i, state, states_at, (i,)) for i, state in enumerate(states)]
    else:
        first = [] if states is None else [Operand(_STATES, states, states_at)]
    return Operands([Operand(0, args[0], 0), *first], parameters)


def flow(function: Callable[..., Any], args: Sequence[Any], slots: Sequence[str], results: int) -> dict[str, Any]:
    """What `nncf_ext.graph.Node` says of a recurrent operator. slots: of its parameters; results: number of its outputs."""
    is_cell = _name(function) in CELLS
    directions = 2 if not is_cell and args[8 if _is_packed(args) else 7] else 1
    each = len(slots) // directions
    ends = [tuple((cell, state) for cell in range(directions)) for state in (0, 1)]
    outputs = ends if is_cell else [ends[0], *ends]
    return {
        "directions": tuple((tuple(slots[i * each : (i + 1) * each]),) for i in range(directions)),
        "states": {_STATES + state: (0, ends[state]) for state in range(results - (not is_cell))},
        "results": {port: (-1 if port == 0 else 0, outputs[port]) for port in range(results)},
    }


def projected_layer(model: nn.Module) -> str | None:
    """The name of an LSTM with a projection, which ONNX's LSTM has not."""
    return next((name for name, module in model.named_modules() if isinstance(module, nn.LSTM) and module.proj_size), None)


def port_of_made(index: int) -> int:
    """The port of a call's parameter `index` where the model computes it: ONNX's would be W's or R's."""
    return _MADE + index


def one_call_each(function: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any] | None:
    """The function that makes this call as one for each of its layers, with dropout in between; None where it has one layer."""
    if _name(function) not in SEQUENCES or len(args) != ALL:
        return None
    layers = args[5 if _is_packed(args) else 4]
    return partial(_layer_by_layer, function) if layers > 1 else None


def _layer_by_layer(function: Callable[..., Any], *args: Any) -> Any:
    # torch's order: data, [batch_sizes,] states, parameters, has_biases, layers, dropout, training, bidirectional, [batch_first]
    packed = _is_packed(args)
    x, sizes, rest = args[0], args[1:2] if packed else (), args[2 if packed else 1 :]
    states, parameters, has_biases, layers, dropout, training, bidirectional = rest[:7]
    directions, each = 2 if bidirectional else 1, len(parameters) // layers
    last = []
    for layer in range(layers):
        rows = slice(layer * directions, (layer + 1) * directions)
        first = tuple(state[rows] for state in states) if _is_list(states) else states[rows]
        own = list(parameters[layer * each : (layer + 1) * each])
        x, *ends = function(x, *sizes, first, own, has_biases, 1, 0.0, training, bidirectional, *rest[7:])
        last.append(ends)
        if dropout and layer < layers - 1:
            x = torch.dropout(x, dropout, training)
    return (x, *(torch.cat(parts) for parts in zip(*last, strict=True)))


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "")


def _is_packed(args: Sequence[Any]) -> bool:
    """Whether the sequence is packed: sizes of batches come second, and what else has the parameters' place."""
    return _is_list(args[3])


def _is_projected(states: Any) -> bool:
    return _is_list(states) and states[0].shape[-1] != states[1].shape[-1]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
