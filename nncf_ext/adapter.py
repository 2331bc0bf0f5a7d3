"""What the core asks of a framework. Each adapter package implements this once; it knows no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from nncf_ext.data import Framework
from nncf_ext.edits import Edit, Plan, Removal, Var
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import Graph, Site
from nncf_ext.optimizer_hook import OptimizerHook
from nncf_ext.step_watch import StepWatch

Values = Mapping[str, Mapping[str, Var]]  # edit key -> variable name -> first value
Table = Sequence[str | int | float]  # a vocabulary, bounds of bins
Looks = Mapping[Site, Callable[[Any], Any]]  # what to make of the tensor that passes an activation site
Inference = Callable[[Any], tuple[Any, dict[Site, Any]]]  # model inputs -> outputs, what was made of tensors


class Traced(Protocol):
    """A graph together with what the adapter needs to find the operators again in the model.

    An adapter takes back its own kind only, so `Adapter` takes `Any` where it asks for one.
    """

    @property
    def graph(self) -> Graph: ...


class Attached(Protocol):
    """A plan that lives in a model: the model computes with the transforms, and this reads and writes their variables.

    traced: of the model when it was plain.
    """

    model: Any
    plan: Plan
    traced: Any

    @property
    def optimizer_hook(self) -> OptimizerHook:
        """Around the steps of the optimizers that train the model."""
        ...

    def variables(self, edit: Edit) -> Mapping[str, Any]:
        """The edit's variables as arrays of the framework, attached to its autodiff."""
        ...

    def tensor_names(self, edit: Edit) -> Mapping[str, str]:
        """The names of the edit's variables in `Adapter.tensors`, by variable name."""
        ...

    def parameter_names(self, edit: Edit) -> Collection[str]:
        """The names in `Adapter.tensors` of the parameters at the edit's sites, every name of a shared one."""
        ...

    def assign(self, edit: Edit, name: str, value: Any) -> None:
        """Overwrite one variable in place (an array of the framework, or numpy)."""
        ...

    def parameter(self, site: Site) -> Any:
        """The raw parameter at a parameter site, before any transform, attached to autodiff."""
        ...

    def owner(self, site: Site) -> Any:
        """The framework's layer that has the parameter at a parameter site."""
        ...

    def set_enabled(self, edit: Edit, enabled: bool) -> None:
        """Switch one edit off (its transform becomes the identity) or on again, in compiled functions too."""
        ...

    def enabled(self, edit: Edit) -> bool: ...

    def dropout(self) -> Mapping[str, float]:
        """Rates of the model's dropout layers, by node."""
        ...

    def set_dropout(self, node: str, rate: float) -> None:
        """Change the rate of a dropout layer, in compiled functions too."""
        ...

    def detach(self) -> None:
        """Make the model plain again, with its parameters as they are."""
        ...


class Adapter(Protocol):
    """data: what the framework says of data. steps_by: how its users have the scheduler's calls made for them, in words."""

    name: str
    xp: Any
    data: Framework
    steps_by: str

    def trace(self, model: Any, example: Any) -> Traced:
        """The graph of a plain model. ValueError for one that is compressed already."""
        ...

    def parameter(self, model: Any, traced: Any, site: Site) -> np.ndarray:
        """The value of the parameter at a site of a model that is not compressed yet."""
        ...

    def apply(self, model: Any, traced: Any, plan: Plan, values: Values) -> Attached:
        """Place `plan` in `model`, in place. On any error the model is as it was."""
        ...

    def inference(self, model: Any, traced: Any = None, sites: Looks | None = None, off: Collection[Edit] = ()) -> Inference:
        """The function inputs -> (outputs, what `sites` make of the tensors that pass these activations meanwhile), in inference
        mode and without gradients. It may be called any number of times; in between the model is as it was.

        traced: the model's, or of a compressed one `Attached.traced`, where sites or `off` are given. A site has the function
        that gets its tensor as it passes: a later operator may write into that. inputs: as a batch or `tap` gives them, or what
        the model is traced with. off: edits of a compressed model that do nothing meanwhile. Where an edit that stays on has its
        site, the tensor may be the one before it or the one after it.
        """
        ...

    def batch_statistics(self, model: Any) -> AbstractContextManager[int]:
        """Within, each BatchNorm whose statistics training re-estimates normalises with those of its batch, as in training; all
        else is as before, and the statistics are afterwards what they were. Gives the number of these layers."""
        ...

    def adapt_batchnorm(self, model: Any, batches: Iterable[Any]) -> None:
        """Re-estimate the BatchNorm statistics of `model` on `batches`; nothing else changes."""
        ...

    def hessian_products(
        self, model: Any, traced: Any, sites: Sequence[Site], loss: Callable[[Any, Any], Any]
    ) -> Callable[[tuple[Any, Any], Sequence[np.ndarray]], list[np.ndarray]]:
        """The function ((inputs, target), v) -> H v, with v and H v as one array of the parameter's shape for each site.

        H is the Hessian of `loss(outputs, target)` by the parameters at `sites` of the plain model, taken together, in inference
        mode. Whatever the framework raises in it passes through.
        """
        ...

    def loss_gradients(
        self, model: Any, loss: Callable[[Any, Any], Any], batch: tuple[Any, Any], factor: float
    ) -> tuple[float, float, dict[str, np.ndarray]]:
        """(value, its derivative by `factor`, its gradients by the trainable weights by their names in `tensors`) of
        `loss(factor * outputs, target)` in inference mode. Outputs that are not one tensor are left as they are: derivative 0.
        """
        ...

    def preserving_state(self, model: Any) -> AbstractContextManager[None]:
        """Around the user's own look at `model`, which is plain before and after: no gradients are kept, and its weights,
        statistics and modes are afterwards what they were."""
        ...

    def frozen_copy(self, model: Any, example: Any = None) -> Any:
        """An independent copy in inference mode without gradients (a teacher). ValueError where none can be made that computes
        the same. example: what the model was traced with."""
        ...

    def check_copyable(self, model: Any, example: Any = None) -> None:
        """ValueError where `strip` of this model, which is plain yet, could not make a copy."""
        ...

    def tap(
        self, model: Any, traced: Any, sites: Collection[Site], after_forward: Callable[[Any, Any, Mapping[Site, Any]], None]
    ) -> None:
        """Have `after_forward(inputs, outputs, tensors)` called in every training forward of the compressed `model`, and nothing
        that was asked for before.

        tensors: those that passed activation `sites`, behind all edits there, attached to autodiff. traced: `Attached.traced`.
        """
        ...

    def watch_training(self, model: Any, watch: StepWatch, loss: ForwardLoss) -> Callable[[], None]:
        """Tell `watch` of the optimizer steps that train parameters of `model` (where steps are compiled, of their compilation),
        and of weights loaded into it. Returns what ends that; so does letting go of it.

        loss: is added to its `task_weight` times the task's loss where the framework itself computes that (Keras' `fit`).
        """
        ...

    def copied(self, attached: Any) -> Attached:
        """The same plan in an independent copy of the compressed model. ValueError where the model cannot be copied."""
        ...

    def strip(self, model: Any, do_copy: bool, quantizers: bool = False) -> Any:
        """The plain model: `model` itself, or a copy that leaves `model` compressed. Parameters are what their transforms make of
        them, activation transforms are gone.

        quantizers: with what `nncf_ext.quantization.quantizers.fixed` says of its quantizers, as edits that have no controller.
        """
        ...

    def remove_channels(self, model: Any, removals: Sequence[Removal], traced: Any) -> Any:
        """A plain `model`, of which `traced` is the graph, with smaller parameters; in place.

        It computes what it did before, which is checked on the example that it was traced with. ConfigError, and the model as it
        was, where it does not.
        """
        ...

    def unsaid(self, model: Any) -> str:
        """A sentence for who saves a model that channels have left, where what it is built from does not say so; else ""."""
        ...

    def tensors(self, model: Any) -> dict[str, np.ndarray]:
        """All weights, statistics and transform variables of the model by name, for a checkpoint."""
        ...

    def load_tensors(self, model: Any, tensors: Mapping[str, np.ndarray], tables: Mapping[str, Table] | None = None) -> None:
        """Overwrite what `tensors` gave, name by name, and where there are some what `tables` gave. ValueError, and nothing
        changed, where these are not of this model's layers."""
        ...

    def tables(self, model: Any) -> Mapping[str, Table]:
        """What layers learned from data and keep in no tensor (vocabularies, bounds of bins) by layer, for a checkpoint."""
        ...

    def broadcast_from_rank0(self, value: Any) -> Any:
        """What the first of several training processes has (plain data), on all of them; `value` where there is one."""
        ...

    def to_numpy(self, array: Any) -> np.ndarray: ...

    def in_float32(self, attached: Any) -> AbstractContextManager[Attached]:
        """The compressed model as it is deployed: with float32 weights (`attached` itself where it has these) and without the
        mixed precision and compiled calls that training puts around it. Afterwards the model is as it was."""
        ...

    def export_marked(self, attached: Any, example: Any, free: Mapping[str, Mapping[int, str]], marked: Collection[str]) -> Any:
        """The model in inference mode as an `onnx_ir.Model` in which every edit of `marked` (keys) is one `nncf_ext::Quantizer`
        node.

        The node has a string attribute `key` (the edit's). Masks are already multiplied into the weights; weights are float.
        Inputs have the names that `data.named` gives them, outputs the model's own. free: axes that shall be of any size beside
        the batch, by input; an axis for which the model has one size only keeps that.
        """
        ...
