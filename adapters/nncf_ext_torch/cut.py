"""What stays of a tensor, cut in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nncf_ext.channels.shrinking import Changes


@dataclass(frozen=True)
class Cut:
    """What stays of a tensor of `shape`: the indices to keep, by axis."""

    shape: tuple[int, ...]
    keep: dict[int, tuple[int, ...]]

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """The smaller tensor, in the memory format that `value` has."""
        smaller = value
        for axis, indices in self.keep.items():
            smaller = smaller.index_select(axis, torch.tensor(indices, device=value.device))
        for rank, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if value.ndim == rank and not value.is_contiguous() and value.is_contiguous(memory_format=memory_format):
                return smaller.contiguous(memory_format=memory_format)
        return smaller.contiguous()

    def apply(self, tensor: torch.Tensor, changes: Changes) -> None:
        """Cut `tensor` in place; its gradient is dropped."""
        before, gradient = tensor.data, tensor.grad

        def undo() -> None:
            _give(tensor, before)
            tensor.grad = gradient

        changes.made(undo)
        tensor.grad = None
        _give(tensor, self.of(before))


def _give(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """`value` as the data of `tensor`. Where an earlier forward's graph is still alive, autograd remembers the old shape; it
    forgets it when the type changes."""
    if tensor.requires_grad:
        tensor.data = tensor.data.to(torch.float16 if tensor.dtype != torch.float16 else torch.float32)
    tensor.data = value
