"""The section `quantization`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from nncf_ext.config.initialization import Initializer, PerLayerRangeInit, RangeInit, one_or_array
from nncf_ext.config.precision import PrecisionInit
from nncf_ext.config.section import Bits, Boolean, Count, LrMultiplier, Number, Scope, ScopedConfig, Section, Size, whole


class QuantizationInitializer(Initializer):
    """What happens to the data of `register_default_init_args` before training starts."""

    range: Annotated[
        Annotated[RangeInit, Tag("<object>")] | Annotated[tuple[PerLayerRangeInit, ...], Tag("<array>")],
        Discriminator(one_or_array),
    ] = RangeInit()
    """How the ranges of the quantizers start; an array has an entry for every quantizer."""

    precision: PrecisionInit | None = None
    """Different numbers of bits for different quantizers; all get those of `weights` and `activations` where it is missing."""


class QuantizationSettings(ScopedConfig):
    """What holds for all weights, or for all activations. A key that is missing is left to `preset` and `target_device`."""

    mode: Literal["symmetric", "asymmetric"] | None = None
    """symmetric: levels around zero; asymmetric: a range of its own on either side."""

    bits: Bits = 8
    """Bits per number."""

    signed: Boolean | None = None
    """Whether symmetric levels include negative ones; where it is missing, the first values decide."""

    per_channel: Boolean | None = None
    """A range for every channel instead of one for the tensor."""

    logarithm_scale: Boolean = False
    """Learn the logarithm of the scale (or span) in its place: it changes in proportion to itself, and stays positive."""


WeightQuantizer = Literal["nncf", "lsq", "lsq_plus", "dorefa", "stretched_elastic", "apot", "fp8_e4m3", "fp8_e5m2"]
ActivationQuantizer = Literal["nncf", "lsq", "lsq_plus", "pact", "dorefa", "fp8_e4m3", "fp8_e5m2"]
GroupSize = Annotated[Literal[32, 64, 128], BeforeValidator(whole)]
Levels = Annotated[Literal[3, 4], BeforeValidator(whole)]


class WeightQuantizationSettings(QuantizationSettings):
    """The same for weights."""

    quantizer: WeightQuantizer = "nncf"
    """nncf: learned range; lsq, lsq_plus: learned step; dorefa: tanh of the weights between fixed bounds; stretched_elastic: 3
    or 4 levels; apot: sums of powers of two, of 2 to 5 bits; fp8_e4m3, fp8_e5m2: floating point of 8 bits."""

    levels: Levels | None = None
    """stretched_elastic: number of levels; 3 is ternary (1.58 bits), 4 is the same as "bits": 2."""

    group_size: GroupSize | None = None
    """nncf: a range for every so many inputs of each output, of weights of linear layers whose inputs it divides."""


class ActivationQuantizationSettings(QuantizationSettings):
    """The same for activations."""

    quantizer: ActivationQuantizer = "nncf"
    """nncf: learned range; lsq: learned step; lsq_plus: learned step and offset; pact: learned clipping level; dorefa: cut at 1;
    fp8_e4m3, fp8_e5m2: floating point of 8 bits."""

    clipping_regularization_factor: Annotated[Number, Field(ge=0)] = 1e-4
    """pact: factor of the sum of the squared clipping levels, which is added to the loss."""

    unified_scale_ops: tuple[tuple[Scope, ...], ...] = ()
    """Groups of operators: what the operators of a group read is quantized with one range. A name of NNCF 2.x's quantizers
    (`name|OUTPUT`) stands for the quantizer at that place."""


class OverrideInitializer(Section):
    """What data decides for the quantizers of one entry of `scope_overrides`."""

    range: RangeInit | None = None
    """How their ranges start, in place of the general `initializer.range`."""


class ScopeOverride(Section):
    """What holds for the quantizers of a scope, in place of the settings of their group. A missing key changes nothing."""

    mode: Literal["symmetric", "asymmetric"] | None = None
    """symmetric: levels around zero; asymmetric: a range of its own on either side."""

    bits: Bits | None = None
    """Bits per number."""

    signed: Boolean | None = None
    """Whether symmetric levels include negative ones."""

    per_channel: Boolean | None = None
    """A range for every channel instead of one for the tensor."""

    initializer: OverrideInitializer = OverrideInitializer()
    """What data decides for them."""


class WeightScopeOverride(ScopeOverride):
    """The same for weights."""

    quantizer: WeightQuantizer | None = None
    """The way of quantizing."""

    levels: Levels | None = None
    """stretched_elastic: number of levels."""

    group_size: GroupSize | None = None
    """nncf: a range for every so many inputs of each output."""


class ActivationScopeOverride(ScopeOverride):
    """The same for activations."""

    quantizer: ActivationQuantizer | None = None
    """The way of quantizing."""


class ScopeOverrides(Section):
    """Settings by scope. Of several scopes that match, each key comes from the last one, exact names after expressions."""

    weights: dict[Scope, WeightScopeOverride] = {}
    """By the name of the node that owns the weight."""

    activations: dict[Scope, ActivationScopeOverride] = {}
    """By the name of the operator that reads the quantized tensor, of an input of the model, or of a quantizer
    (`name|OUTPUT`, `name|INPUT0`)."""


class StagedParams(Section):
    """When quantizers begin to work: before its epoch a group of them does nothing. Without this section all work at once.

    The keys about learning rate, weight decay and batches change nothing here: the training script, which has the optimizer, may
    read them (NNCF 2.x's samples did).
    """

    activations_quant_start_epoch: Count = 1
    """First epoch with quantized activations; their ranges are initialised again when it begins."""

    weights_quant_start_epoch: Count = 1
    """First epoch with quantized weights; their ranges are initialised again when it begins."""

    lr_poly_drop_start_epoch: Count | None = None
    """For the training script: epoch from which on the learning rate drops as base_lr * (share of the drop left)^2.1."""

    lr_poly_drop_duration_epochs: Count = 30
    """For the training script: epochs that the drop takes."""

    disable_wd_start_epoch: Count | None = None
    """For the training script: epoch after which there is no weight decay."""

    base_lr: Annotated[Number, Field(ge=0)] = 1e-3
    """For the training script: the learning rate before the drop."""

    base_wd: Annotated[Number, Field(ge=0)] = 1e-5
    """For the training script: the weight decay before it ends."""

    batch_multiplier: Size | None = None
    """For the training script: batches whose gradients are added up for one optimizer step; 1 where it is missing."""


class QuantizationConfig(ScopedConfig):
    """Quantization-aware training: weights and activations are rounded to few bits in the forward pass, with learned ranges."""

    algorithm: Literal["quantization"] = "quantization"
    """Name of the algorithm."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the learned ranges."""

    preset: Literal["performance", "mixed"] = "performance"
    """performance: symmetric everywhere; mixed: symmetric weights, asymmetric activations."""

    quantize_inputs: Boolean = True
    """Whether the inputs of the model are quantized."""

    quantize_outputs: Boolean = False
    """Whether the outputs of the model are quantized."""

    overflow_fix: Literal["enable", "disable", "first_layer_only"] = "enable"
    """Use 7 of 8 bits for weights, on target devices ANY and CPU, whose 8-bit multiply-add can saturate otherwise."""

    export_to_onnx_standard_ops: Boolean = False
    """Deprecated, has no effect: exports have standard operators."""

    weights: WeightQuantizationSettings = WeightQuantizationSettings()
    """What holds for all weights."""

    activations: ActivationQuantizationSettings = ActivationQuantizationSettings()
    """What holds for all activations."""

    scope_overrides: ScopeOverrides = ScopeOverrides()
    """Exceptions to both, by scope."""

    initializer: QuantizationInitializer = QuantizationInitializer()
    """What data decides before training."""

    params: StagedParams | None = None
    """Quantizers that begin to work in the course of training; where it is missing, all work at once."""
