"""Smaller tensors and other attributes in a model, which can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Cut:
    """What stays of a tensor of `shape`: the indices to keep, by axis."""

    shape: tuple[int, ...]
    keep: Mapping[int, tuple[int, ...]]

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """The smaller tensor, in the memory format that `value` has."""
        smaller = value
        for axis, indices in self.keep.items():
            smaller = smaller.index_select(axis, torch.tensor(indices, device=value.device))
        for rank, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if value.ndim == rank and not value.is_contiguous() and value.is_contiguous(memory_format=memory_format):
                return smaller.contiguous(memory_format=memory_format)
        return smaller.contiguous()


class Changes:
    """Changes of tensors and attributes, to be undone exactly. attributes: what has another value now, and whose."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self.attributes: list[tuple[Any, str]] = []

    def __len__(self) -> int:
        return len(self._undo)

    def cut(self, tensor: torch.Tensor, cut: Cut) -> None:
        before, gradient = tensor.data, tensor.grad

        def undo() -> None:
            _give(tensor, before)
            tensor.grad = gradient

        self._undo.append(undo)
        tensor.grad = None
        _give(tensor, cut.of(before))

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        before = {name: vars(owner)[name]} if name in vars(owner) else {}

        def undo() -> None:
            del vars(owner)[name]
            vars(owner).update(before)
            self.attributes.pop()

        self._undo.append(undo)
        self.attributes.append((owner, name))
        vars(owner)[name] = value

    def undo(self, down_to: int = 0) -> None:
        while len(self._undo) > down_to:
            self._undo.pop()()


def _give(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """`value` as the data of `tensor`. Where an earlier forward's graph is still alive, autograd remembers the old shape; it
    forgets it when the type changes."""
    if tensor.requires_grad:
        tensor.data = tensor.data.to(torch.float16 if tensor.dtype != torch.float16 else torch.float32)
    tensor.data = value
