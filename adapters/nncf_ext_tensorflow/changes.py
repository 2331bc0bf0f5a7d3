"""Changes to the attributes of objects that can be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = object()


class Changes:
    """Attributes are written past `__setattr__`, so that Keras tracks nothing anew."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
        vars(owner)[name] = value

    def set_all(self, owner: Any, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.set(owner, name, value)

    def undo(self) -> None:
        for owner, name, value in reversed(self._before):
            if value is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value
        self._before.clear()
