"""The state of a torch optimizer and its learning-rate schedule as arrays and JSON: never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def optimizer_state(optimizer: Any, lr_scheduler: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by `<parameter index>.<name>`, and the rest as JSON; what a schedule keeps that is none (functions) is left out."""
    if optimizer is None:
        return {}, {}
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            is_tensor = isinstance(value, torch.Tensor)
            (tensors if is_tensor else numbers)[f"{index}.{name}"] = value.detach().cpu().numpy() if is_tensor else value
    schedule = {} if lr_scheduler is None else {k: v for k, v in lr_scheduler.state_dict().items() if _is_json(v)}
    return tensors, {"numbers": numbers, "groups": state["param_groups"], "schedule": schedule}


def load_optimizer_state(
    optimizer: Any, lr_scheduler: Any, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> None:
    if optimizer is None or not settings:
        return
    state: dict[int, dict[str, Any]] = {}
    arrays = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    for key, value in {**arrays, **settings["numbers"]}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": settings["groups"]})
    if lr_scheduler is not None:
        lr_scheduler.load_state_dict(settings["schedule"])


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
