"""Callbacks that look for the best model: only compressed ones count.

One that has not got there is often more accurate, and is not what was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nncf_ext.algorithm import CompressionStage
from nncf_ext.controller import Controller

_LOGGER = logging.getLogger("nncf_ext")


def is_compressed(controller: Controller) -> bool:
    return controller.compression_stage() == CompressionStage.FULLY_COMPRESSED


def hold(controller: Controller, callback: Any, methods: Iterable[str]) -> None:
    """From now on `methods` of `callback` do nothing unless all of the model is compressed."""

    def held(method: Callable[..., Any]) -> Callable[..., Any]:
        def only_then(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs) if is_compressed(controller) else None

        return only_then

    vars(callback).update({name: held(getattr(callback, name)) for name in methods})


class Waiting:
    """Callbacks of one training that wait."""

    def __init__(self, controller: Controller, callbacks: Sequence[Any], methods: Sequence[str]):
        """Those of `callbacks` that do not wait already, unless the model is compressed by now. Tells so once."""
        self._controller, self._methods = controller, methods
        ready = is_compressed(controller)
        self._callbacks = [] if ready else [c for c in callbacks if not any(name in vars(c) for name in methods)]
        for callback in self._callbacks:
            hold(controller, callback, methods)
        if self._callbacks:
            _LOGGER.warning("%s: begins to judge models once the compression stage is FULLY_COMPRESSED", self._names)

    def end(self) -> None:
        """The training ends. They are as they were, and it is told if they have judged no model."""
        for callback in self._callbacks:
            for name in self._methods:
                vars(callback).pop(name, None)
        if self._callbacks and not is_compressed(self._controller):
            _LOGGER.warning("%s: judged no model, because training ended before compression did", self._names)
        self._callbacks = []

    @property
    def _names(self) -> str:
        return ", ".join(type(callback).__name__ for callback in self._callbacks)
