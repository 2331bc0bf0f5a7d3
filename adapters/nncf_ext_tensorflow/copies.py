"""Another Keras model that computes what a given one computes.

It is built from the config, which says less than the model knows: what a layer keeps outside of its variables (the constants of
an adapted Normalization, a vocabulary) is handed over as Keras saves it, and both models are run to see that nothing is lost.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from nncf_ext.closeness import largest_difference
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.comparison import outputs_of, tolerance_of
from nncf_ext_tensorflow.example_inputs import no_inputs, running_inputs, states_kept

Registered = Callable[[], Any] | None  # gives a batch of the user's data as model inputs; None where there are none


def copy_of(model: Any, example: Any = None, registered: Registered = None) -> Any:
    """A copy of a plain model, not compiled, with weights and state of its own.

    example: model inputs, for one that does not know them. registered: gives others. ValueError where the model cannot be built
    from its config, or where what is built computes something else; a warning where it runs on none of these inputs.
    """
    try:
        copy = keras_private.built_again(model)
        if example is not None and not (copy.built and all(layer.built for layer in keras_private.layers_in(copy))):
            copy(example, training=False)
        if not copy.built:
            raise ValueError("its variables are unknown before it has run")
        _hand_over(model, copy)
    except Exception as error:  # whatever a user's `get_config`, `__init__` or `build` may raise
        raise ValueError(_sentence(model, *_culprit(model, error))) from error
    inputs = running_inputs(model, example, registered)
    if inputs is None:
        warnings.warn(f"{no_inputs(model)}: a copy of it was not compared with it", stacklevel=2)
        return copy
    odd = _first_odd_output(model, copy, inputs)
    if odd is not None:
        reason = f"the copy's output {odd[0]} differs by {odd[1]:.3g} of the largest value"
        raise ValueError(_sentence(model, "something that it computes with", f"is in no config and no variable: {reason}"))
    return copy


def check_copyable(model: Any, example: Any = None, registered: Registered = None) -> None:
    """ValueError as of `copy_of`, and where nothing is known that the model runs on; models of Keras' own layers alone are not
    copied."""
    if running_inputs(model, example, registered) is None:
        raise ValueError(no_inputs(model))
    if keras_private.users_layers(model) or any(isinstance(each, keras.layers.Lambda) for each in keras_private.layers_in(model)):
        copy_of(model, example, registered)


def refresh_state(model: Any, variables: Sequence[keras.Variable]) -> None:
    """Have layers make anew what they keep of their variables elsewhere, after `variables` have got other values."""
    changed = {id(variable) for variable in variables}
    for layer in keras_private.layers_in(model):
        if keras_private.keeps_constants(layer) and changed & {id(v) for v in keras_private.own_variables(layer)}:
            layer.load_own_variables(_own_state(layer))


def _hand_over(model: Any, copy: Any) -> None:
    ours, theirs = keras_private.layers_in(model), keras_private.layers_in(copy)
    if [keras_private.unpatched_class(a) for a in ours] != [keras_private.unpatched_class(b) for b in theirs]:
        raise ValueError("its config gives other layers than it has")
    for source, target in zip(ours, theirs, strict=True):
        target.name = source.name
        state = _own_state(source)
        if state or keras_private.keeps_constants(source):
            target.load_own_variables(state)
        for before, after in zip(keras_private.seeds(source), keras_private.seeds(target), strict=True):
            after.assign(before)
        if keras_private.has_assets(source):
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)
    for before, after in zip(model.variables, copy.variables, strict=True):
        after.trainable = before.trainable


def _own_state(layer: Any) -> dict[str, np.ndarray]:
    """What a layer writes of itself into a file."""
    state: dict[str, Any] = {}
    layer.save_own_variables(state)
    return {name: value.numpy() if isinstance(value, keras.Variable) else np.asarray(value) for name, value in state.items()}


def _first_odd_output(model: Any, copy: Any, inputs: Any) -> tuple[int, float] | None:
    """The number of an output that is another one, and by how much. None also where the model itself gives others each time."""
    expected, found = _outputs(model, inputs), _outputs(copy, inputs)
    if expected is None:
        return None
    differences = [np.inf] if found is None else list(map(largest_difference, expected, found))
    worst = max(differences, default=0)
    if worst <= tolerance_of(model):
        return None
    again = _outputs(model, inputs)
    if again is None or max(map(largest_difference, expected, again), default=0) > 0:
        return None
    return differences.index(worst), worst


def _outputs(model: Any, inputs: Any) -> list[np.ndarray] | None:
    """In inference mode; None where the model does not run on `inputs`."""
    with states_kept(model):
        try:
            return outputs_of(model, inputs)
        except Exception:  # whatever a user's `call` may raise
            return None


def _culprit(model: Any, error: Exception) -> tuple[str, str]:
    """The layer that cannot be built again, where one is found, and why."""
    for layer in keras_private.users_layers(model):
        if layer is model:
            continue
        try:
            keras_private.built_again(layer)
        except Exception as own:  # see above
            return f"layer {layer.name!r} of class {keras_private.unpatched_class(layer).__name__}", _reason(own)
    return "it", _reason(error)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, NotImplementedError):
        return "has no get_config, and its arguments are not plain numbers and texts"
    return f"does not come back from its config ({(lines or [type(error).__name__])[-1][:200]})"


def _sentence(model: Any, what: str, why: str) -> str:
    return (
        f"model {model.name!r} cannot be copied: {what} {why}; expected a get_config that says all, or do without a copy: "
        "pass a teacher to distil from, strip with do_copy=False, prune no channels"
    )
