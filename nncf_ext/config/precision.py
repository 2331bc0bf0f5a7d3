"""`initializer.precision`: how many bits each quantizer gets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nncf_ext.config.section import Bits, Boolean, Count, Number, Scope, Section, Size, without_effect
from nncf_ext.errors import refusal


class PrecisionInit(Section):
    """How many bits each quantizer gets, where they do not all get the same."""

    type: Literal["manual", "hawq", "autoq"] = "manual"
    """manual: as bitwidth_per_scope says; hawq: the least damage to the loss, by its second derivatives, at a given share of the
    bit operations (Dong et al. 2020); autoq: the best score of the model at a given size, by trial."""

    bits: tuple[Bits, ...] = (2, 4, 8)
    """hawq, autoq: the numbers of bits to choose from, of which each quantizer takes those that target_device has for it."""

    num_data_points: Size = 100
    """hawq: labelled samples to take the second derivatives on; each random direction takes the next two of them."""

    iter_number: Size | None = None
    """hawq: random directions tried at most, by default 200; autoq: models tried, which has no default."""

    tolerance: Annotated[Number, Field(ge=0)] = 1e-4
    """hawq: relative change of the mean over all layers, from one direction to the next, below which no more are tried."""

    compression_ratio: Annotated[Number, Field(gt=0)] | None = None
    """hawq: bit operations of the model with 8 bits everywhere over those wanted, by default 1.5; autoq: most bits of all weights
    over those of 32-bit floats, by default 0.15."""

    eval_subset_ratio: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """autoq: share of the validation data that a model is tried on."""

    warmup_iter_number: Count = 20
    """autoq: models tried at random before the search learns from scores."""

    bitwidth_per_scope: tuple[tuple[Bits, Scope], ...] = ()
    """manual: pairs of bits and quantizer, which is a node with |WEIGHT, |OUTPUT or |INPUT0, a node for all its quantizers, or a
    regular expression marked with {re}. A later pair wins."""

    traces_per_layer_path: str | None = None
    """hawq: a file with the mean second derivative of each quantized weight, in execution order, instead of computing them:
    .npy, .safetensors, .json (what dump_init_precision_data wrote), or a tensor that PyTorch saved."""

    dump_init_precision_data: Boolean = False
    """hawq, autoq: whether what was found is written into log_dir, as numbers (JSON) and as a picture (PNG)."""

    bitwidth_assignment_mode: Literal["liberal", "strict"] = "liberal"
    """hawq: liberal: an activation gets the fewest bits of the weights that it meets; strict: all weights and activations that
    meet get the same."""

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> PrecisionInit:
        for key in sorted(self.model_fields_set - {"type"}):
            users = [kind for kind, keys in _PRECISION_KEYS.items() if key in keys]
            if self.type not in users:
                without_effect(key, f"type {self.type}, it belongs to type {' or '.join(users)}")
        if not self.bits:
            raise refusal("found [], expected numbers of bits", "bits")
        if self.type == "autoq" and self.iter_number is None:
            raise refusal("missing, expected the number of models to try", "iter_number")
        return self

    @property
    def iterations(self) -> int:
        return 200 if self.iter_number is None else self.iter_number

    @property
    def ratio(self) -> float:
        return self.compression_ratio or {"hawq": 1.5, "autoq": 0.15}[self.type]


_PRECISION_KEYS = {
    "manual": {"bitwidth_per_scope"},
    "hawq": {"bits", "num_data_points", "iter_number", "tolerance", "compression_ratio", "traces_per_layer_path"}
    | {"dump_init_precision_data", "bitwidth_assignment_mode"},
    "autoq": {"bits", "iter_number", "compression_ratio", "eval_subset_ratio", "warmup_iter_number", "dump_init_precision_data"},
}
