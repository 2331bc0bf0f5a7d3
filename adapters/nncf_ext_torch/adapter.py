"""PyTorch behind `nncf_ext.adapter.Adapter`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from nncf_ext.adapter import Attached, Inference, Looks, Table, Values
from nncf_ext.data import Framework
from nncf_ext.edits import Edit, Plan, Removal
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import Site
from nncf_ext.step_watch import StepWatch
from nncf_ext_torch import apply, batchnorm, hessian, shrink, trace, xp
from nncf_ext_torch.computed_weights import computed_in, copied, weight
from nncf_ext_torch.data import TorchData
from nncf_ext_torch.gradients import loss_gradients
from nncf_ext_torch.hub_config import unsaid
from nncf_ext_torch.inference import inference
from nncf_ext_torch.sharding import broadcast_from_rank0, overwrite, to_numpy
from nncf_ext_torch.sites import parameter_name
from nncf_ext_torch.taps import AfterForward, tap
from nncf_ext_torch.trace import ExampleInput, TorchTrace
from nncf_ext_torch.training_watch import TrainingWatch


class TorchAdapter:
    name = "torch"
    xp: Any = xp
    data: Framework = TorchData()
    steps_by = "nncf_ext_torch.trainer_callback(controller) or lightning_callback(controller) among a trainer's callbacks"

    def trace(self, model: nn.Module, example: ExampleInput | Callable[[nn.Module], Any]) -> TorchTrace:
        apply.refuse_compressed(model)
        return trace.trace(model, example)

    def parameter(self, model: nn.Module, traced: TorchTrace, site: Site) -> np.ndarray:
        return self.to_numpy(weight(model, parameter_name(traced, site)))

    def apply(self, model: nn.Module, traced: TorchTrace, plan: Plan, values: Values) -> Attached:
        return apply.apply(model, traced, plan, values)

    def inference(
        self, model: nn.Module, traced: TorchTrace | None = None, sites: Looks | None = None, off: Collection[Edit] = ()
    ) -> Inference:
        return inference(model, traced, sites or {}, off)

    def batch_statistics(self, model: nn.Module) -> AbstractContextManager[int]:
        return batchnorm.batch_statistics(model)

    def adapt_batchnorm(self, model: nn.Module, batches: Iterable[Any]) -> None:
        batchnorm.adapt_batchnorm(model, batches)
        for name, statistic in broadcast_from_rank0(dict(model.named_buffers())).items():
            model.get_buffer(name).copy_(statistic)

    def hessian_products(
        self, model: nn.Module, traced: TorchTrace, sites: Sequence[Site], loss: Callable[[Any, Any], torch.Tensor]
    ) -> Callable[[tuple[Any, Any], Sequence[np.ndarray]], list[np.ndarray]]:
        if computed_in(model):  # by the weight itself, not by what it is made of
            model = copied(model, model)
            apply.make_plain(model)
        parameters = [model.get_parameter(parameter_name(traced, site)) for site in sites]
        return lambda batch, directions: [
            self.to_numpy(product) for product in hessian.hessian_products(model, parameters, loss, batch, directions)
        ]

    def loss_gradients(
        self, model: nn.Module, loss: Callable[[Any, Any], torch.Tensor], batch: tuple[Any, Any], factor: float
    ) -> tuple[float, float, dict[str, np.ndarray]]:
        value, by_factor, gradients = loss_gradients(model, loss, batch, factor)
        return value, by_factor, {name: self.to_numpy(gradient) for name, gradient in gradients.items()}

    @contextmanager
    def preserving_state(self, model: nn.Module) -> Iterator[None]:
        before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        modes = [(module, module.training) for module in model.modules()]
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    if name in before:
                        value.copy_(before[name])

    def frozen_copy(self, model: nn.Module, example: Any = None) -> nn.Module:
        return copied(model, model).eval().requires_grad_(False)

    def check_copyable(self, model: nn.Module, example: Any = None) -> None:
        """Nothing: whatever `copy.deepcopy` takes is copied."""

    def tap(self, model: nn.Module, traced: TorchTrace, sites: Collection[Site], after_forward: AfterForward) -> None:
        tap(model, traced, sites, after_forward)

    def watch_training(self, model: nn.Module, watch: StepWatch, loss: ForwardLoss) -> TrainingWatch:
        """The loss is the loop's, which computes the task's too."""
        return TrainingWatch(model, watch)

    def copied(self, attached: Any) -> Attached:
        try:
            return copied(attached, attached.model)
        except (RuntimeError, TypeError) as error:  # tensors with a history, locks
            raise ValueError(f"{type(attached.model).__name__} cannot be copied: {error}") from error

    def strip(self, model: nn.Module, do_copy: bool, quantizers: bool = False) -> nn.Module:
        model = copied(model, model) if do_copy else model
        apply.strip(model, quantizers)
        return model

    def remove_channels(self, model: nn.Module, removals: Sequence[Removal], traced: TorchTrace) -> nn.Module:
        return shrink.remove_channels(model, removals, traced)

    def unsaid(self, model: nn.Module) -> str:
        return unsaid(model)

    def tensors(self, model: nn.Module) -> dict[str, np.ndarray]:
        return {name: self.to_numpy(value) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}

    def load_tensors(
        self, model: nn.Module, tensors: Mapping[str, np.ndarray], tables: Mapping[str, Table] | None = None
    ) -> None:
        if tables:
            raise ValueError(f"it has a vocabulary or bins of {next(iter(tables))}, which this model does not have")
        state = model.state_dict()
        for name, value in tensors.items():
            overwrite(state[name], torch.as_tensor(value))
        apply.accept_written(model)

    def tables(self, model: nn.Module) -> dict[str, Table]:
        """Modules keep all that they learn in parameters and buffers."""
        return {}

    def broadcast_from_rank0(self, value: Any) -> Any:
        return broadcast_from_rank0(value)

    def to_numpy(self, array: torch.Tensor) -> np.ndarray:
        return to_numpy(array)

    def in_float32(self, attached: Any) -> AbstractContextManager[Any]:
        from nncf_ext_torch import export

        return export.in_float32(attached)

    def export_marked(self, attached: Any, example: Any, free: Mapping[str, Mapping[int, str]], marked: Collection[str]) -> Any:
        from nncf_ext_torch import export

        return export.export_marked(attached, example, free, marked)
