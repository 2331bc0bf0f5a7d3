"""The Keras adapter (`nncf_ext.adapter.Adapter`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import numpy as np

from nncf_ext.adapter import Inference, Looks, Table, Values
from nncf_ext.data import Framework
from nncf_ext.edits import Edit, Plan, Removal
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import Site
from nncf_ext.step_watch import StepWatch
from nncf_ext_tensorflow import keras_private, xp
from nncf_ext_tensorflow.attach import KerasAttached, attach
from nncf_ext_tensorflow.batchnorm import adapt_batchnorm, batch_statistics
from nncf_ext_tensorflow.copies import Registered, check_copyable, copy_of, refresh_state
from nncf_ext_tensorflow.data import KerasData
from nncf_ext_tensorflow.gradients import loss_gradients
from nncf_ext_tensorflow.hessian import hessian_products
from nncf_ext_tensorflow.inference import inference
from nncf_ext_tensorflow.naming import names_in
from nncf_ext_tensorflow.saving import attached_to, refuse_compressed
from nncf_ext_tensorflow.shrunk_model import remove_channels
from nncf_ext_tensorflow.tables import load_tables, tables_of
from nncf_ext_tensorflow.taps import AfterForward
from nncf_ext_tensorflow.trace import KerasTrace, trace
from nncf_ext_tensorflow.training_watch import TrainingWatch
from nncf_ext_tensorflow.variables import HOLDER, to_numpy


class KerasAdapter:
    """registered: gives data as model inputs, for a look at a model that does not run on inputs that are made up."""

    name = "tensorflow"
    xp = xp
    data: Framework = KerasData()
    steps_by = "fit(..., callbacks=create_compression_callbacks(controller))"

    def __init__(self, registered: Registered = None):
        self._registered = registered

    def trace(self, model: keras.Model, example: Any = None) -> KerasTrace:
        refuse_compressed(model)
        return trace(model, example)

    def parameter(self, model: keras.Model, traced: Any, site: Site) -> np.ndarray:
        return self.to_numpy(traced.variables[site][2])

    def apply(self, model: keras.Model, traced: Any, plan: Plan, values: Values) -> KerasAttached:
        return attach(model, plan, values, traced)

    def inference(
        self, model: keras.Model, traced: Any = None, sites: Looks | None = None, off: Collection[Edit] = ()
    ) -> Inference:
        """Eager forwards."""
        return inference(model, traced, sites or {}, off, self._registered)

    def batch_statistics(self, model: keras.Model) -> AbstractContextManager[int]:
        return batch_statistics(names_in(model).batch_norms)

    def adapt_batchnorm(self, model: keras.Model, batches: Iterable[Any]) -> None:
        adapt_batchnorm(model, names_in(model).batch_norms, batches)

    def hessian_products(
        self, model: keras.Model, traced: Any, sites: Sequence[Site], loss: Callable[[Any, Any], Any]
    ) -> Callable[[tuple[Any, Any], Sequence[np.ndarray]], list[np.ndarray]]:
        return hessian_products(model, [traced.variables[site][2] for site in sites], loss)

    def loss_gradients(
        self, model: keras.Model, loss: Callable[[Any, Any], Any], batch: tuple[Any, Any], factor: float
    ) -> tuple[float, float, dict[str, np.ndarray]]:
        weights = {name: variable for name, variable in _named_variables(model).items() if variable.trainable}
        return loss_gradients(model, weights, loss, batch, factor)

    @contextmanager
    def preserving_state(self, model: keras.Model) -> Iterator[None]:
        before = [(variable, variable.numpy()) for variable in model.variables]
        try:
            yield
        finally:
            for variable, value in before:
                variable.assign(value)

    def frozen_copy(self, model: keras.Model, example: Any = None) -> keras.Model:
        """ValueError where the model cannot be built from its config."""
        copy = copy_of(model, example, self._registered)
        copy.trainable = False
        return copy

    def check_copyable(self, model: keras.Model, example: Any = None) -> None:
        check_copyable(model, example, self._registered)

    def tap(self, model: keras.Model, traced: Any, sites: Collection[Site], after_forward: AfterForward) -> None:
        attached_to(model).tap(sites, after_forward)

    def watch_training(self, model: keras.Model, watch: StepWatch, loss: ForwardLoss) -> TrainingWatch:
        return attached_to(model).watch_training(watch, loss)

    def copied(self, attached: KerasAttached) -> KerasAttached:
        """ValueError where the model cannot be built from its config."""
        try:
            copy = keras_private.built_again(attached.model)
        except Exception as error:
            raise ValueError(f"model {attached.model.name!r} cannot be built from its config") from error
        self.load_tensors(copy, self.tensors(attached.model))
        return attached_to(copy)

    def strip(self, model: keras.Model, do_copy: bool, quantizers: bool = False) -> keras.Model:
        attached: KerasAttached | None = attached_to(model)
        plan, values = attached.fixed() if quantizers and attached is not None else (Plan(), {})
        plain = self._plain_copy(model) if do_copy else model
        if attached is not None and not do_copy:
            attached.strip()
        if attached is not None and plan.edits:
            attach(plain, plan, values, trace(plain, attached.traced.example) if do_copy else attached.traced)
        return plain

    def _plain_copy(self, model: keras.Model) -> keras.Model:
        attached: KerasAttached | None = attached_to(model)
        if attached is None:
            return copy_of(model, None, self._registered)
        with attached.lifted():
            copy = copy_of(model, attached.traced.example, self._registered)
            counterparts = {id(ours): theirs for ours, theirs in zip(model.variables, copy.variables, strict=True)}
        for variable, value in attached.transformed_parameters():
            counterparts[id(variable)].assign(value)
        refresh_state(copy, copy.variables)
        return copy

    def remove_channels(self, model: keras.Model, removals: Sequence[Removal], traced: Any) -> keras.Model:
        refuse_compressed(model)
        return remove_channels(model, removals, traced, self._registered)

    def unsaid(self, model: keras.Model) -> str:
        """Nothing: `.keras` files of such a model have what was removed."""
        return ""

    def tensors(self, model: keras.Model) -> dict[str, np.ndarray]:
        return {name: self.to_numpy(variable) for name, variable in _named_variables(model).items()}

    def load_tensors(
        self, model: keras.Model, tensors: Mapping[str, np.ndarray], tables: Mapping[str, Table] | None = None
    ) -> None:
        if tables is not None:
            load_tables(model, tables)
        variables = _named_variables(model)
        for name, value in tensors.items():
            variables[name].assign(value)
        refresh_state(model, [variables[name] for name in tensors])

    def tables(self, model: keras.Model) -> dict[str, Table]:
        return tables_of(model)

    def broadcast_from_rank0(self, value: Any) -> Any:
        """`value`: a strategy of tf.distribute that is supported has one process."""
        return value

    def to_numpy(self, array: Any) -> np.ndarray:
        return to_numpy(array)

    @contextmanager
    def in_float32(self, attached: KerasAttached) -> Iterator[KerasAttached]:
        with keras_private.computing_in_float32(attached.model):
            yield attached

    def export_marked(
        self, attached: KerasAttached, example: Any, free: Mapping[str, Mapping[int, str]], marked: Collection[str]
    ) -> Any:
        from nncf_ext_tensorflow.export import export_marked

        return export_marked(attached, example, free, marked)


def _named_variables(model: Any) -> dict[str, keras.Variable]:
    names = names_in(model).variables
    if attached_to(model) is not None:  # a Functional model does not count the holder of the transforms among its layers
        names.update({id(variable): f"{HOLDER}/{variable.name}" for variable in getattr(model, HOLDER).variables})
    return {names[id(variable)]: variable for variable in model.variables if id(variable) in names}
