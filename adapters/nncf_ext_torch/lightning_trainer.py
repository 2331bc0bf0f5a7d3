"""A callback for Lightning's Trainer. Importing this module loads Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nncf_ext.controller import Controller
from nncf_ext.training.best_model import Waiting
from nncf_ext_torch.apply import PREFIX
from nncf_ext_torch.torch_private import averages_buffers

callbacks: Any = import_module("lightning.pytorch.callbacks" if find_spec("lightning") else "pytorch_lightning.callbacks")

_JUDGING = ("on_train_batch_end", "on_train_epoch_end", "on_validation_end")


class CompressionCallback(callbacks.Callback):
    """See `nncf_ext_torch.lightning_callback`."""

    def __init__(self, controller: Controller):
        self._controller = controller
        self._resumed = False
        self._epochs_before = 0
        self._steps: int | None = None  # of optimizers, when the last step of the schedules was begun
        self._waiting: Waiting | None = None

    def state_dict(self) -> dict[str, Any]:
        return self._controller.get_state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._controller.load_state(state_dict)
        self._resumed = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._refuse_averaged_masks(trainer.callbacks)
        self._epochs_before = 0 if self._resumed else max(self._controller.clock.epoch + 1 - trainer.current_epoch, 0)
        self._resumed, self._steps = False, None
        judges = [
            c
            for c in trainer.callbacks
            if isinstance(c, callbacks.EarlyStopping | callbacks.ModelCheckpoint) and c.monitor is not None
        ]
        self._waiting = Waiting(self._controller, judges, _JUDGING)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._waiting is not None:
            self._waiting.end()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch + self._epochs_before
        if self._controller.clock.epoch != epoch:  # else the middle of one is resumed
            self._controller.scheduler.epoch_step(epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._steps != trainer.global_step:  # else gradients are being accumulated
            self._steps = trainer.global_step
            self._controller.scheduler.step()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._controller.after_optimizer_step()

    def _refuse_averaged_masks(self, others: Sequence[Any]) -> None:
        """ValueError where a callback will average masks or codes as numbers, and put them into the model when training ends."""
        averages = [type(other).__name__ for other in others if averages_buffers(other)]
        masks = [
            name for name, buffer in self._controller.model.named_buffers() if PREFIX in name and not buffer.is_floating_point()
        ]
        if averages and masks:
            raise ValueError(
                f"{averages[0]}: averages buffers, {masks[0]} among them, which is no number: expected use_buffers=False"
            )
