"""Reports of training forwards of a compressed model: inputs, outputs, and tensors that passed sites."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from nncf_ext.graph import Site
from nncf_ext_tensorflow import keras_private

AfterForward = Callable[[Any, Any, Mapping[Site, Any]], None]


class Tap:
    """Called with inputs and outputs at the end of a training forward. looks: what has to be applied at each site."""

    def __init__(self, sites: Collection[Site], after_forward: AfterForward) -> None:
        self.looks = [partial(self._look, site) for site in sites]
        self._after_forward = after_forward
        self._passed: dict[int, dict[Site, Any]] = {}  # by thread

    def __call__(self, inputs: Any, outputs: Any) -> None:
        self._after_forward(inputs, outputs, self._passed.pop(threading.get_ident(), {}))

    def _look(self, site: Site, x: Any) -> Any:
        if keras_private.trained_now():
            self._passed.setdefault(threading.get_ident(), {})[site] = x
        return x
