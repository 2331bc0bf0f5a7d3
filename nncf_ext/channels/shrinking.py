"""Taking channels out of a model in place: which indices stay along the axes of its tensors, and how all of it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from nncf_ext.edits import Removal

_ABSENT = object()


def keep_along(kept: MutableMapping[int, tuple[int, ...]], removal: Removal, shape: Sequence[int]) -> None:
    """Add what `removal` leaves of a tensor of `shape` to `kept`, its indices by axis; an axis that stays whole is not in it.

    ValueError for an axis or indices that the tensor does not have, and for a removal that contradicts an earlier one.
    """
    site, keep = removal.site, tuple(removal.keep)
    if not -len(shape) <= removal.axis < len(shape):
        raise ValueError(f"{site}: found axis {removal.axis}, expected one of {len(shape)} axes")
    axis = removal.axis % len(shape)
    if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= shape[axis]:
        raise ValueError(f"{site}: found {_shown(keep)} to keep, expected sorted indices below {shape[axis]}, at least one")
    if kept.get(axis, keep) != keep:
        raise ValueError(f"{site}: found other channels to keep along axis {axis} than another removal does, expected the same")
    if len(keep) < shape[axis]:
        kept[axis] = keep


def _shown(keep: Sequence[int]) -> str:
    return str(list(keep)) if len(keep) < 8 else f"[{', '.join(map(str, keep[:6]))}, ...]"


class Changes:
    """Changes of attributes, and whatever else, to be taken back exactly.

    Attributes are written past `__setattr__`, so that a framework tracks nothing anew. attributes: those that have another value
    now, with whose they are.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []
        self.attributes: list[tuple[Any, str]] = []

    def __len__(self) -> int:
        return len(self._undo)

    def made(self, undo: Callable[[], Any]) -> None:
        """A change was made, or is about to be, that `undo` takes back."""
        self._undo.append(undo)

    def set(self, owner: Any, name: str, value: Any) -> None:
        before = vars(owner).get(name, _ABSENT)

        def undo() -> None:
            self.attributes.pop()
            if before is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = before

        self.made(undo)
        self.attributes.append((owner, name))
        vars(owner)[name] = value

    def set_all(self, owner: Any, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.set(owner, name, value)

    def undo(self, down_to: int = 0) -> None:
        """Take back all but the first `down_to` changes, the last one first."""
        while len(self._undo) > down_to:
            self._undo.pop()()

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.undo()
            raise
