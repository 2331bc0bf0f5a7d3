"""How a model whose own config cannot say which channels are left is written to a `.keras` file and read back.

Layers of Keras say it: a Functional or Sequential model of them is a plain file. The code of a user's model or layer may give
all of its layers one width, though. Such a model is saved as what it was before, and what was removed from it;
`keras.models.load_model` needs `import nncf_ext_tensorflow` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from nncf_ext.edits import Removal
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Site
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.comparison import outputs_of
from nncf_ext_tensorflow.copies import Registered
from nncf_ext_tensorflow.example_inputs import no_inputs, running_inputs
from nncf_ext_tensorflow.saving import example_like, input_specs
from nncf_ext_tensorflow.shrink import kept_of, shrink_unchecked, try_to_shrink
from nncf_ext_tensorflow.trace import KerasTrace

_RECORD = "_nncf_ext_removed"  # the config, in the __dict__ of a model
_classes: dict[type, type] = {}


@keras.saving.register_keras_serializable(package="nncf_ext")
class ShrunkModel:
    """Mixin of the subclass that such a model gets. Loading gives a model of it again."""

    users_class: type

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self)[_RECORD])

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        if "removals" not in config:  # a config of the model as it was, given to the class of the shrunk one
            return cls.users_class.from_config(config)  # type: ignore[attr-defined]
        model: Any = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        for each in config["removals"]:
            removals = [Removal(Site.parse(site), axis, tuple(keep)) for site, axis, keep in each["removals"]]
            shrink_unchecked(model, removals, each["users_sizes"], example_like(config["inputs"]))
        _become(model, config)
        return model


def _config_before(model: Any) -> dict[str, Any] | None:
    """What `_remember` needs of a model that has its channels still; None where its file will say what is left by itself.

    That is where it consists of layers of Keras, or where it cannot be saved anyway.
    """
    if isinstance(model, ShrunkModel):
        return vars(model)[_RECORD]
    if not keras_private.users_layers(model):
        return None
    try:
        return {"model": keras_private.config_without_compilation(model), "removals": []}
    except Exception:  # whatever a user's `get_config` may raise
        return None


def _remember(model: Any, before: dict[str, Any] | None, removals: Sequence[Removal], users_sizes: str, example: Any) -> None:
    """Have `model` saved as the config that it had, and `removals`, unless the config that it has now gives its shapes."""
    if before is None or (not isinstance(model, ShrunkModel) and _says_its_shapes(model)):
        return
    step = {"removals": [[str(r.site), r.axis, list(r.keep)] for r in removals], "users_sizes": users_sizes}
    _become(model, {"inputs": input_specs(example), **before, "removals": [*before["removals"], step]})


def _says_its_shapes(model: Any) -> bool:
    try:
        copy = keras_private.built_again(model)
    except Exception:  # whatever a user's `from_config` and `build` may raise
        return False
    return [tuple(v.shape) for v in copy.variables] == [tuple(v.shape) for v in model.variables]


def _become(model: Any, config: dict[str, Any]) -> None:
    vars(model)[_RECORD] = config
    cls = type(model)
    if issubclass(cls, ShrunkModel):
        return
    if cls not in _classes:
        namespace = {"users_class": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _classes[cls] = type(cls.__name__, (ShrunkModel, cls), namespace)
        keras_private.serialize_as(_classes[cls], ShrunkModel)
    object.__setattr__(model, "__class__", _classes[cls])


def remove_channels(model: Any, removals: Sequence[Removal], traced: KerasTrace, registered: Registered = None) -> Any:
    """`model` itself, with only the channels that `removals` keep; `traced` is its trace, and of no use afterwards.

    A compiled model stays compiled; its optimizer starts anew. ConfigError, and `model` as it was, where a layer cannot get
    smaller, or where the outputs for the example that was traced become others (by 1e-4 of the largest, in float32).
    """
    if not kept_of(removals, traced):
        return model
    example = running_inputs(model, traced.example, registered)
    if example is None:
        raise ConfigError(no_inputs(model))
    expected, config = outputs_of(model, example), _config_before(model)
    refusals: list[ConfigError] = []
    for users_sizes in ("own", "all", "none") if keras_private.users_layers(model) else ("own",):
        try:
            try_to_shrink(model, removals, traced, users_sizes, example, expected)
        except ConfigError as error:
            refusals.append(error)
            continue
        _remember(model, config, removals, users_sizes, example)
        keras_private.forget_compiled_functions(model)
        keras_private.renew_optimizer(model)
        return model
    raise refusals[0]
