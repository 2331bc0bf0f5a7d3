"""Copies of a compressed model that somebody averages: their masks and codes are those of the model that is trained.

Whoever averages models averages floating-point tensors. What becomes of the others differs: they stay as they were when the copy
was made (ultralytics), are copied (timm's newer one), or are averaged like numbers, which leaves of two masks their union. So a
copy whose parameters somebody wrote into, and which is not trained itself, takes the variables that no average can be made of
from the model that it is a copy of.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.programs import look
from nncf_ext_torch.sharding import is_sharded
from nncf_ext_torch.torch_private import version_of, without_function_modes


class Follower:
    """For the variables of one edit in a copy. A copy of it follows the same model; pickles have none.

    original: the edit in the model. variables: the copy's. seen: how often the parameters beside them had been written into when
    the variables were last right.
    """

    def __init__(self, original: Any, variables: Any, seen: int = 0) -> None:
        self._original = weakref.ref(original)
        self._variables = variables
        self._seen = seen

    def copied(self, variables: Any) -> Follower | None:
        """That of a copy of the copy, which the same was written into."""
        original = self._original()
        return None if original is None else Follower(original, variables)

    def accept_written(self) -> None:
        """What was written was right: a file, say."""
        self._seen = _written(self._variables.owner)

    def follow(self) -> None:
        original = self._original()
        written = _written(self._variables.owner)
        if original is None or written == self._seen or look.depth:  # in a look buffers are put back afterwards
            return
        self._seen = written
        with torch.no_grad(), without_function_modes():
            for name, own in self._variables.items():
                theirs = getattr(original.variables.owner, original.variables.attributes[name], None)
                if theirs is not None and not own.is_floating_point() and own.shape == theirs.shape:
                    own.copy_(theirs)


def _written(owner: nn.Module) -> int:
    """How often somebody wrote into the layer's parameters. Copies begin with zero."""
    held = [p for p in owner._parameters.values() if p is not None and not is_sharded(p) and not p.is_inference()]
    return sum(version_of(p) for p in held)
