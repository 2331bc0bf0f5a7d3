"""Callbacks for the trainers of other libraries, which are loaded when one is asked for."""

from __future__ import annotations

from typing import Any

from nncf_ext.controller import Controller


def trainer_callback(compression_ctrl: Controller) -> Any:
    """For `callbacks` of Hugging Face's Trainer; to be given last, after an EarlyStoppingCallback.

    It steps the schedules; adds the algorithms' losses to the loss that the model itself computes in its forward (a Trainer with
    a loss function of its own has to add `compression_ctrl.loss()`); puts the controller's state into the Trainer's checkpoints
    and takes it from there with `resume_from_checkpoint`; and lets only compressed models be the best, or stop training early.
    """
    from transformers import TrainerCallback

    from nncf_ext_torch.hugging_face import CompressionEvents

    return type("CompressionCallback", (CompressionEvents, TrainerCallback), {})(compression_ctrl)


def lightning_callback(compression_ctrl: Controller) -> Any:
    """For `callbacks` of Lightning's Trainer (`lightning` or `pytorch_lightning`).

    It steps the schedules, has the controller's state in Lightning's checkpoints, and lets EarlyStopping, and ModelCheckpoint
    with a monitor, judge compressed models only. `training_step` returns `compression_ctrl.total_loss(loss)`.
    """
    from nncf_ext_torch.lightning_trainer import CompressionCallback

    return CompressionCallback(compression_ctrl)
