"""How a compressed model is written to a `.keras` file and read back: its config is the plain model's, and the plan.

`keras.models.load_model` needs `import nncf_ext_tensorflow` first, nothing else.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from nncf_ext.edits import Var
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.variables import HOLDER, TransformVariables


@keras.saving.register_keras_serializable(package="nncf_ext")
class CompressedModel:
    """Mixin of a compressed model. All of them are saved under its registered name; loading gives a model of the user's class."""

    def get_config(self) -> dict[str, Any]:
        attached = attached_to(self)
        with attached.lifted():
            plain: Any = keras.saving.serialize_keras_object(self)
        plain.pop("compile_config", None)  # Keras compiles the compressed model, once it has all of its variables
        return {
            "model": plain,
            "plan": attached.plan.to_json(),
            "variables": getattr(self, HOLDER).specifications(),
            "inputs": attached.input_specs,
            "disabled": [edit.key for edit in attached.plan if not attached.placed[edit.key].enabled],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        if "plan" not in config:  # a config of the plain model, given to the class of a compressed one
            return super().from_config(config)  # type: ignore[misc]
        from nncf_ext.checkpoint import plan_from_json
        from nncf_ext_tensorflow.attach import attach

        model: Any = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        values = {
            key: {name: Var(np.zeros(spec["shape"], spec["dtype"]), spec["trainable"]) for name, spec in variables.items()}
            for key, variables in config["variables"].items()
        }
        attached = attach(model, plan_from_json(config["plan"]), values, example=example_like(config["inputs"]))
        for edit in attached.plan:
            attached.set_enabled(edit, edit.key not in config.get("disabled", ()))
        return model

    @property
    def layers(self) -> list[Any]:
        return [layer for layer in super().layers if not isinstance(layer, TransformVariables)]  # type: ignore[misc]

    @layers.setter
    def layers(self, _: Any) -> None:
        raise AttributeError("`Model.layers` is reserved")


def attached_to(model: Any) -> Any:
    """The `KerasAttached` of a compressed model, else None."""
    return vars(model).get("_nncf_ext_attached")


def refuse_compressed(model: Any) -> None:
    """ValueError for a model that is compressed already."""
    if attached_to(model) is not None:
        raise ValueError(
            f"model {model.name!r} is compressed already, or was stripped with its quantizers: strip it with quantizers=False "
            "first, or compress an uncompressed copy"
        )


def input_specs(example: Any) -> Any:
    """An example of model inputs as JSON data; None where there is none."""
    if example is None:
        return None
    return keras.tree.map_structure(
        lambda x: {"shape": [1, *x.shape[1:]], "dtype": keras.backend.standardize_dtype(x.dtype)}, example
    )


def example_like(specs: Any) -> Any:
    """Zeros, or empty strings, of the shapes that `input_specs` wrote."""
    if specs is None:
        return None
    if isinstance(specs, dict) and set(specs) == {"shape", "dtype"}:
        if specs["dtype"] == "string":
            return np.full(specs["shape"], "", object)
        return np.zeros(specs["shape"], specs["dtype"])
    if isinstance(specs, dict):
        return {name: example_like(spec) for name, spec in specs.items()}
    return [example_like(spec) for spec in specs]


def serialize_as_compressed(model: Any) -> None:
    """To be called once the class of `model` has been swapped."""
    keras_private.serialize_as(type(model), CompressedModel)
