"""The steps of all optimizers, for those who listen. Keras has no hook on them, so `Optimizer.apply`, in which `fit` and loops of
one's own both end, is wrapped while there are listeners, and not longer. In compiled functions their tracing is heard."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import keras

from nncf_ext_tensorflow.keras_private import trained_variables


class Listener(Protocol):
    def before_step(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The gradients that the optimizer gets."""
        ...

    def after_step(self, optimizer: Any, variables: Sequence[Any]) -> None: ...


_listening: weakref.WeakSet[Any] = weakref.WeakSet()
_OPTIMIZER: Any = keras.optimizers.Optimizer


def listen(listener: Listener) -> None:
    """Until `ignore`, or until nobody holds `listener`."""
    _listening.add(listener)
    weakref.finalize(listener, _undo_for_nobody)
    if not hasattr(_OPTIMIZER.apply, "listened_to"):
        _OPTIMIZER.apply = _heard(_OPTIMIZER.apply)


def ignore(listener: Listener) -> None:
    _listening.discard(listener)
    _undo_for_nobody()


def _undo_for_nobody() -> None:
    """Give Keras its own method back, unless somebody wrapped ours, which then does nothing."""
    ours: Any = vars(_OPTIMIZER).get("apply")
    if not list(_listening) and getattr(ours, "__code__", None) is _CODE:
        _OPTIMIZER.apply = ours.listened_to


def _heard(apply: Any) -> Any:
    @functools.wraps(apply)
    def heard(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        listeners = list(_listening)
        if listeners and trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        variables = trained_variables(self) if trainable_variables is None else trainable_variables
        for listener in listeners:
            grads = listener.before_step(self, grads, variables)
        result = apply(self, grads, trainable_variables)
        for listener in listeners:
            listener.after_step(self, variables)
        return result

    heard.listened_to = apply  # type: ignore[attr-defined]
    return heard


_CODE = _heard(lambda: None).__code__
