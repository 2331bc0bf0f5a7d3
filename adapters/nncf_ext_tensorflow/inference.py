"""Running a model in inference mode, with a look at the tensors that pass its sites. It is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras

from nncf_ext.adapter import Inference, Looks
from nncf_ext.edits import Edit
from nncf_ext.graph import Site
from nncf_ext_tensorflow.apply import Function, Patch
from nncf_ext_tensorflow.copies import Registered
from nncf_ext_tensorflow.example_inputs import no_inputs, running_inputs
from nncf_ext_tensorflow.saving import attached_to


def inference(model: Any, traced: Any, sites: Looks, off: Collection[Edit], registered: Registered) -> Inference:
    """See `nncf_ext.adapter.Adapter.inference`. registered: gives inputs for a model that does not run on made-up ones."""

    def infer(inputs: Any) -> tuple[Any, dict[Site, Any]]:
        seen: dict[Site, Any] = {}

        def look(site: Site, function: Callable[[Any], Any], x: Any) -> Any:
            seen[site] = function(keras.ops.stop_gradient(x))
            return x

        with _looked_at(model, traced, {site: partial(look, site, function) for site, function in sites.items()}, off):
            outputs = model(_given(model, inputs, registered), training=False)
        return keras.tree.map_structure(keras.ops.stop_gradient, outputs), seen

    return infer


def _given(model: Any, inputs: Any, registered: Registered) -> Any:
    """Inputs; None stands for those that the model is traced with where it knows what they are like."""
    if inputs is None:
        inputs = running_inputs(model, None, registered, samples=1)
    if inputs is None:
        raise ValueError(no_inputs(model))
    return inputs


@contextmanager
def _looked_at(model: Any, traced: Any, functions: Mapping[Site, Function], off: Collection[Edit]) -> Iterator[None]:
    """With `functions` at activation sites. Without any the model is not touched."""
    attached = attached_to(model)
    if not functions and not off:
        yield
    elif attached is not None:
        with attached.observed(functions, off):
            yield
    else:
        patch = Patch(model, traced)
        try:
            for site, function in functions.items():
                patch.at_place(site, function)
            yield
        finally:
            patch.remove()
