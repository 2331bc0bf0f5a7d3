"""The keys of the top level."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict

from nncf_ext.config.accuracy_aware import AccuracyAwareTraining
from nncf_ext.config.section import LrMultiplier, Scopes, Section, Size, as_array, deprecated


class InputInfo(Section):
    """An input of the model, for tracing and export."""

    sample_size: tuple[Size, ...]
    """Shape of the input, batch included."""

    type: str = "float"
    """Data type; "long" is a 64-bit integer, everything else a 32-bit float."""

    filler: Literal["ones", "zeros", "random"] = "ones"
    """What the input is filled with for tracing."""

    keyword: str | None = None
    """Name of the argument of the model's call; positional where it is missing."""


_OLDER_DEVICES = {"VPU": "NPU", "NONE": "TRIAL", "cpu": "CPU", "gpu": "GPU", "vpu": "NPU"}


def _device_in_todays_spelling(value: Any) -> Any:
    if not isinstance(value, str) or value not in _OLDER_DEVICES:
        return value
    deprecated(f"the target device {value!r} is called {_OLDER_DEVICES[value]!r} now")
    return _OLDER_DEVICES[value]


class TopLevel(Section):
    """The keys of the top level except `compression`. Others are allowed: they belong to the training script."""

    model_config = ConfigDict(extra="allow")
    not_built = frozenset({"bootstrapNAS"})
    renamed = MappingProxyType({"hw_config_type": "target_device"})

    input_info: Annotated[
        tuple[InputInfo, ...] | None, BeforeValidator(as_array, json_schema_input_type=InputInfo | tuple[InputInfo, ...])
    ] = None
    """The model's inputs; taken from the data of register_default_init_args where it is missing."""

    target_device: Annotated[
        Literal["ANY", "CPU", "GPU", "NPU", "TRIAL", "CPU_SPR"],
        BeforeValidator(
            _device_in_todays_spelling, json_schema_input_type=Literal["ANY", "CPU", "GPU", "NPU", "TRIAL", "CPU_SPR"]
        ),
    ] = "ANY"
    """Where the exported model will run; decides which operators are quantized, and how."""

    ignored_scopes: Scopes = ()
    """Added to the ignored_scopes of every algorithm."""

    target_scopes: Scopes | None = None
    """The target_scopes of the algorithms that have none of their own."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of all that compression trains (ranges, scores); an algorithm's own goes first."""

    log_dir: str | None = None
    """Folder for pictures of the graph before and after compression, which are not drawn where it is missing, and for what
    `dump_init_precision_data` writes, by default the current one."""

    accuracy_aware_training: AccuracyAwareTraining | None = None
    """Training that keeps the accuracy within a budget."""
