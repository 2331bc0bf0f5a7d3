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
from nncf_ext.graph import Site
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.saving import example_like, input_specs

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
        from nncf_ext_tensorflow.shrink import shrink_unchecked

        model: Any = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        for each in config["removals"]:
            removals = [Removal(Site.parse(site), axis, tuple(keep)) for site, axis, keep in each["removals"]]
            shrink_unchecked(model, removals, each["users_sizes"], example_like(config["inputs"]))
        _become(model, config)
        return model


def config_before(model: Any) -> dict[str, Any] | None:
    """What `remember` needs of a model that has its channels still; None where its file will say what is left by itself.

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


def remember(model: Any, before: dict[str, Any] | None, removals: Sequence[Removal], users_sizes: str, example: Any) -> None:
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
