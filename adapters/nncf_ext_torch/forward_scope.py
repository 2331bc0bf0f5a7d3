"""Whether a forward of a compressed model is running in this thread.

Inside one, an attribute such as `layer.weight` is what the parameter's transforms make of it; outside it is the parameter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Scope(threading.local):
    entered = False


scope = _Scope()


@contextmanager
def in_forward() -> Iterator[None]:
    before, scope.entered = scope.entered, True
    try:
        yield
    finally:
        scope.entered = before
