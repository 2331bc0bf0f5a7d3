"""Gradient checkpointing: what runs again in the backward pass runs as it did in the forward pass.

`torch.utils.checkpoint` calls a part of a model's forward once more during the backward pass, when that forward has ended, and
with it the function modes that edit operators and the scope in which parameters are read transformed. Both are put back for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch.utils import checkpoint

from nncf_ext_torch.forward_scope import in_forward, scope
from nncf_ext_torch.function_mode import FunctionMode
from nncf_ext_torch.torch_private import CheckpointFrame, function_modes


def carry_context_into_recomputation() -> None:
    """Have torch's checkpoints, of both kinds, keep what `again_here` keeps. Does nothing the second time."""
    if hasattr(checkpoint.CheckpointFunction.forward, _OURS):
        return
    reentrant, frame = checkpoint.CheckpointFunction.forward, CheckpointFrame.__init__

    @functools.wraps(reentrant)
    def forward(ctx: Any, run_function: Callable[..., Any], *args: Any) -> Any:
        again = again_here(run_function)
        outputs = reentrant(ctx, run_function, *args)
        ctx.run_function = again
        return outputs

    @functools.wraps(frame)
    def initialize(self: Any, recompute_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        frame(self, again_here(recompute_fn), *args, **kwargs)

    setattr(forward, _OURS, True)
    checkpoint.CheckpointFunction.forward = staticmethod(forward)  # type: ignore[method-assign]
    CheckpointFrame.__init__ = initialize  # type: ignore[method-assign]


_OURS = "_nncf_ext_carries"


def again_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, to be called later as if it were called now, at this place in the forward of a compressed model."""
    if not scope.entered:
        return function
    modes = [mode.begun() for mode in function_modes() if isinstance(mode, FunctionMode)]

    @functools.wraps(function)
    def again(*args: Any, **kwargs: Any) -> Any:
        with in_forward(), ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode.begun())
            return function(*args, **kwargs)

    return again
