"""Putting a plan into a model, and what one can do with it there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

from nncf_ext.adapter import Values
from nncf_ext.edits import Edit, Plan, Var
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers.fixed import fixed
from nncf_ext.saved_plan import plan_from_json
from nncf_ext.step_watch import StepWatch
from nncf_ext_tensorflow import keras_private, xp
from nncf_ext_tensorflow.apply import Function, Patch
from nncf_ext_tensorflow.framework_operators import is_exporting, operators_of
from nncf_ext_tensorflow.naming import names_in
from nncf_ext_tensorflow.optimizer_hook import KerasOptimizerHook
from nncf_ext_tensorflow.saving import attached_to, example_like, input_specs, refuse_compressed
from nncf_ext_tensorflow.taps import AfterForward, Tap
from nncf_ext_tensorflow.trace import KerasTrace, trace
from nncf_ext_tensorflow.training_watch import TrainingWatch
from nncf_ext_tensorflow.variables import HOLDER, TransformVariables, to_numpy


def attach(model: Any, plan: Plan, values: Values, traced: KerasTrace | None = None, example: Any = None) -> KerasAttached:
    """Place `plan` in `model`. On any error the model is as it was. ValueError for a model that is compressed already."""
    refuse_compressed(model)
    traced = trace(model, example) if traced is None else traced
    return KerasAttached(model, traced, plan, values)


class PlacedTransform:
    """One edit's transform with its variables, as a function of one tensor: in float32, whatever the compute dtype is.

    stand_in: what is called instead where it is set (export puts a marker there), with the variable that the tensor is, if any.
    off: what compiled functions read, so that they need not be traced anew; a transform that never was off has none, which costs
    nothing, unless it was made `switchable`.
    """

    def __init__(self, edit: Edit, variables: Mapping[str, keras.Variable]):
        self.edit, self.enabled = edit, True
        self.off: keras.Variable | None = None
        self.stand_in: Callable[[Any, Any], Any] | None = None
        self._variables = variables

    def variables(self) -> dict[str, Any]:
        return {name: keras.ops.convert_to_tensor(variable) for name, variable in self._variables.items()}

    def __call__(self, x: Any, variable: keras.Variable | None = None) -> Any:
        if not keras.backend.is_float_dtype(x.dtype):
            return x
        if self.stand_in is not None:
            return self.stand_in(x, variable) if self.enabled else x
        if self.off is None:
            return self._transformed(x)
        return keras.ops.cond(keras.ops.logical_not(self.off), lambda: self._transformed(x), lambda: x)

    def make_switchable(self) -> None:
        """Have functions that are compiled from now on see when it is switched off."""
        if self.off is None:
            self.off = _off(not self.enabled)

    def set_enabled(self, enabled: bool) -> bool:
        """Returns whether functions that were compiled before do not see it."""
        if self.enabled == enabled:
            return False
        self.enabled = enabled
        if self.off is not None:
            self.off.assign(not enabled)
            return False
        self.off = _off(not enabled)
        return True

    def masked(self, x: Any) -> Any:
        """What the transform makes of `x`, whether it is on or off."""
        return self._transformed(x)

    def _transformed(self, x: Any) -> Any:
        x32, variables = keras.ops.cast(x, "float32"), self.variables()
        if is_exporting():
            y = operators_of(self.edit, x32, variables)
        else:
            y = self.edit.apply(xp, x32, variables, keras_private.trained_now())
        return keras.ops.cast(y, x.dtype)


def _off(value: bool) -> keras.Variable:
    return keras.Variable(value, dtype="bool", trainable=False, name="off")


@keras.saving.register_keras_serializable(package="nncf_ext")
class CompressedModel:
    """Mixin of a compressed model. All of them are saved under its registered name, with the plain model's config and the plan;
    loading (`keras.models.load_model`, after `import nncf_ext_tensorflow`) gives a model of the user's class."""

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


class KerasAttached:
    """A plan in a Keras model (`nncf_ext.adapter.Attached`). placed: the transforms in it, by edit key."""

    def __init__(self, model: Any, traced: KerasTrace, plan: Plan, values: Values):
        self.model, self.plan, self.traced = model, plan, traced
        self.input_specs = input_specs(traced.example)
        self._holder = TransformVariables(plan, values)
        self.placed = {edit.key: PlacedTransform(edit, self._holder.of(edit)) for edit in plan}
        self._patch = Patch(model, traced, root_mixins=(CompressedModel,))
        try:
            for edit in plan:
                self._place(edit)
        except BaseException:
            self._patch.remove()
            raise
        keras_private.hold(model, HOLDER, self._holder)
        vars(model)["_nncf_ext_attached"] = self
        parameters = {site: self._variable(site) for edit in plan for site in edit.sites if site.is_parameter}
        self.optimizer_hook = KerasOptimizerHook(self.placed, parameters)
        keras_private.serialize_as(type(model), CompressedModel)
        keras_private.forget_compiled_functions(model)
        keras_private.renew_optimizer(model)

    def variables(self, edit: Edit) -> dict[str, Any]:
        return self.placed[edit.key].variables()

    def tensor_names(self, edit: Edit) -> dict[str, str]:
        return {name: f"{HOLDER}/{variable.name}" for name, variable in self._holder.of(edit).items()}

    def parameter_names(self, edit: Edit) -> list[str]:
        sites = [site for site in edit.sites if site.is_parameter]
        names = names_in(self.model).variables if sites else {}
        return list(dict.fromkeys(names[id(self._variable(site))] for site in sites))

    def assign(self, edit: Edit, name: str, value: Any) -> None:
        self._holder.of(edit)[name].assign(value)

    def parameter(self, site: Site) -> Any:
        return keras.ops.convert_to_tensor(self._variable(site))

    def owner(self, site: Site) -> Any:
        return self.traced.variables[site][0]

    def set_enabled(self, edit: Edit, enabled: bool) -> None:
        """At once in `fit`, `evaluate`, `predict` and eager calls, and in a `tf.function` of the user's that is traced after an
        edit was switched for the first time; one that was traced before has to be traced anew.
        """
        if self.placed[edit.key].set_enabled(enabled):
            keras_private.forget_compiled_functions(self.model)

    def enabled(self, edit: Edit) -> bool:
        return self.placed[edit.key].enabled

    def dropout(self) -> Mapping[str, float]:
        return {node: float(layer.rate) for node, layer in self._dropout_layers().items()}

    def set_dropout(self, node: str, rate: float) -> None:
        """A `tf.function` of the user's that was traced before has to be traced anew."""
        layer = self._dropout_layers()[node]
        if layer.rate != rate:
            layer.rate = rate
            keras_private.forget_compiled_functions(self.model)

    def _dropout_layers(self) -> dict[str, Any]:
        kinds = (keras.layers.Dropout, keras.layers.AlphaDropout)
        owners = {site.node: place.owner for site, place in self.traced.places.items() if site.slot == "output"}
        return {node: layer for node, layer in owners.items() if isinstance(layer, kinds)}

    @contextmanager
    def observed(self, functions: Mapping[Site, Function], off: Collection[Edit]) -> Iterator[None]:
        """With `functions` at activation sites besides what is there, and `off` doing nothing."""
        with self.replaced(off, lambda edit: lambda x, variable: x), self._patch.also(functions):
            yield

    @contextmanager
    def replaced(self, edits: Collection[Edit], stand_in: Callable[[Edit], Callable[[Any, Any], Any]]) -> Iterator[None]:
        """With functions in place of some edits that are on; in what runs or is traced now, not in what was traced before."""
        try:
            for edit in edits:
                self.placed[edit.key].stand_in = stand_in(edit)
            yield
        finally:
            for edit in edits:
                self.placed[edit.key].stand_in = None

    def tap(self, sites: Collection[Site], after_forward: AfterForward) -> None:
        record = self._patch.record(self.model)
        self._patch.take_out(() if record.tap is None else record.tap.looks)
        record.tap = Tap(sites, after_forward)
        for site, look in zip(sites, record.tap.looks, strict=True):
            self._patch.at_place(site, look)
        keras_private.forget_compiled_functions(self.model)

    def watch_training(self, watch: StepWatch, loss: ForwardLoss) -> TrainingWatch:
        record = self._patch.record(self.model)
        record.loss, record.task_weight = loss, loss.task_weight
        self._holder.forward_loss = loss
        keras_private.forget_compiled_functions(self.model)
        self._holder.watch = watch
        return TrainingWatch(self.model, watch)

    def transformed_parameters(self) -> list[tuple[keras.Variable, Any]]:
        """Every parameter that has transforms, and what they make of it."""
        results: dict[int, tuple[keras.Variable, Any]] = {}
        for edit in self.plan:
            for variable in {id(v): v for site in edit.sites if site.is_parameter for v in [self._variable(site)]}.values():
                _, value = results.get(id(variable), (variable, keras.ops.convert_to_tensor(variable)))
                results[id(variable)] = (variable, self.placed[edit.key](value, variable))
        return list(results.values())

    def fixed(self) -> tuple[Plan, dict[str, dict[str, Var]]]:
        """What a stripped model keeps of the plan, and the values of its variables."""
        on = [edit for edit in self.plan if self.placed[edit.key].enabled]
        kept = [found for edit in on for found in [fixed(edit, xp, self.variables(edit), to_numpy)] if found is not None]
        return Plan(tuple(edit for edit, _ in kept)), {edit.key: values for edit, values in kept}

    def strip(self) -> None:
        for variable, value in self.transformed_parameters():
            variable.assign(value)
        self.detach()

    def detach(self) -> None:
        """Take the plan out, leaving parameters as they are."""
        self.optimizer_hook.end()
        self._patch.remove()
        keras_private.release(self.model, HOLDER)
        del vars(self.model)["_nncf_ext_attached"]
        keras_private.forget_compiled_functions(self.model)
        keras_private.renew_optimizer(self.model)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The model as it was before: the user's classes, and no variables of transforms."""
        keras_private.release(self.model, HOLDER)
        try:
            with self._patch.lifted():
                yield
        finally:
            keras_private.hold(self.model, HOLDER, self._holder)

    def _variable(self, site: Site) -> keras.Variable:
        return self.traced.variables[site][2]

    def _place(self, edit: Edit) -> None:
        done: set[int] = set()
        for site in edit.sites:
            if not site.is_parameter:
                self._patch.at_place(site, self.placed[edit.key])
                continue
            if site not in self.traced.variables:
                raise ValueError(f"{site}: the model has no such parameter")
            if id(self._variable(site)) not in done:  # a layer that is called twice reads one variable
                done.add(id(self._variable(site)))
                self._patch.at_weight(site, partial(self.placed[edit.key], variable=self._variable(site)))
