"""A callback for the Trainer of Hugging Face transformers."""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn

from nncf_ext.controller import Controller
from nncf_ext.training.best_model import is_compressed

_KEY = "nncf_ext"  # in the `stateful_callbacks` of the Trainer's state, which is saved with each checkpoint


class CompressionEvents:
    """Mixin for a TrainerCallback, see `nncf_ext_torch.trainer_callback`."""

    def __init__(self, controller: Controller):
        self._controller = controller
        self._epochs_before = 0
        self._judging = False
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        controller, saved = self._controller, state.stateful_callbacks.get(_KEY)
        epoch = _epoch(state)
        self._epochs_before = 0
        if saved is not None:
            controller.load_state(saved)
        elif state.global_step:
            warnings.warn(
                f"{controller.name}: the checkpoint has no state of the schedule, which goes on from epoch {epoch}: expected "
                "one of a Trainer with the same callback",
                stacklevel=1,
            )
            controller.scheduler.epoch_step(epoch)
            controller.scheduler.step(state.global_step - 1)
        else:
            self._epochs_before = max(controller.clock.epoch + 1 - epoch, 0)
        self._judging = is_compressed(controller)
        scale = args.gradient_accumulation_steps * (args.world_size if args.average_tokens_across_devices else 1)
        self._hook = controller.model.register_forward_hook(_AddLoss(controller, scale), with_kwargs=True)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = _epoch(state) + self._epochs_before
        if self._controller.clock.epoch != epoch:  # else the middle of one is resumed
            self._controller.scheduler.epoch_step(epoch)
        if is_compressed(self._controller) and not self._judging:
            self._judging = True
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._controller.scheduler.step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._controller.after_optimizer_step()
        state.stateful_callbacks[_KEY] = self._controller.get_state()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop and not is_compressed(self._controller):
            control.should_training_stop = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.remove()


class _AddLoss:
    """A forward hook that adds the algorithms' losses to the loss in a model's outputs. Copies of the model add nothing.

    scale: what a loss that the model takes the mean of by `num_items_in_batch` is multiplied with, or summed over, afterwards.
    """

    def __init__(self, controller: Controller | None = None, scale: int = 1) -> None:
        self._controller, self._scale = controller, scale

    def __reduce__(self) -> Any:
        return _AddLoss, ()

    @torch.compiler.disable
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        if self._controller is None or not model.training:
            return None
        task = outputs.get("loss") if isinstance(outputs, MutableMapping) else outputs[0] if isinstance(outputs, tuple) else None
        if not isinstance(task, torch.Tensor) or task.ndim:
            return None
        scale = 1 if kwargs.get("num_items_in_batch") is None else self._scale
        loss = self._controller.task_weight * task + self._controller.loss() / scale
        if isinstance(outputs, tuple):
            return (loss, *outputs[1:])
        outputs["loss"] = loss
        return outputs


def _epoch(state: Any) -> int:
    return int((state.epoch or 0) + 1e-6)
