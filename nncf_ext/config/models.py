"""The sections of a config: schema, defaults and documentation in one place. Keys and defaults are NNCF 2.x's.

The class of an algorithm is a subclass of its section here, so an algorithm is its config.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Strict,
    Tag,
    model_validator,
)

from nncf_ext.config.errors import choose, nearest, refusal
from nncf_ext.scopes import compile_scope


def _whole(value: Any) -> Any:
    """8.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_array(value: Any) -> Any:
    """One item stands for an array of one."""
    return value if isinstance(value, list | tuple) or value is None else [value]


def _compiles(pattern: str) -> str:
    try:
        compile_scope(pattern)
    except re.error as error:
        raise refusal(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


def _deprecated(sentence: str) -> None:
    warnings.warn(f"config: {sentence}", FutureWarning, stacklevel=2)  # Python shows users no DeprecationWarning of a library's


# Bounds stand before the validator, so that they reach the JSON Schema.
Count = Annotated[int, Strict(), Field(ge=0), BeforeValidator(_whole)]
Size = Annotated[int, Strict(), Field(ge=1), BeforeValidator(_whole)]
Bits = Annotated[int, Strict(), Field(ge=2, le=8), BeforeValidator(_whole)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Boolean = Annotated[bool, Strict()]
Percentile = Annotated[Number, Field(ge=0, le=100)]
LrMultiplier = Annotated[Number, Field(ge=0)]
Level = Annotated[Number, Field(ge=0, lt=1)]
Scope = Annotated[str, AfterValidator(_compiles)]
Scopes = Annotated[tuple[Scope, ...], BeforeValidator(_as_array, json_schema_input_type=str | tuple[str, ...])]


class Section(BaseModel):
    """An object of the config. Its fields are the keys it knows; an unknown one is an error that names the nearest."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    not_built: ClassVar[frozenset[str]] = frozenset()  # keys of NNCF 2.x that nncf_ext knows and cannot honour yet
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})  # older spelling -> key
    without_effect: ClassVar[frozenset[str]] = frozenset()  # keys that NNCF itself dropped

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = cls._in_todays_spelling(data)
        for key in data:
            if key in cls.not_built:
                raise refusal("known, not built yet", key)
            if key not in cls.model_fields and cls.model_config.get("extra") == "forbid":
                close = nearest(str(key), cls.model_fields)
                advice = f"did you mean {close!r}?" if close else choose(key, cls.model_fields)
                raise refusal(f"unknown key, {advice}", str(key))
        return data

    @classmethod
    def _in_todays_spelling(cls, data: Mapping[Any, Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in data.items():
            if key in cls.without_effect:
                _deprecated(f"the key {key!r} has no effect any more: take it out")
                continue
            name = cls.renamed.get(key, key)
            if name != key:
                if name in data:
                    raise refusal(f"the older spelling of {name!r}, which is given too: expected one of them", key)
                _deprecated(f"the key {key!r} is called {name!r} now")
            found[name] = value
        return found


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


class ScopedConfig(Section):
    """What every section has that speaks about layers."""

    ignored_scopes: Scopes = ()
    """Nodes to leave alone: exact names, or regular expressions marked with {re} that are searched in the name."""

    target_scopes: Scopes | None = None
    """Nodes to look at, in the same notation; all where it is missing."""

    validate_scopes: Boolean = True
    """Whether a scope that matches no node is an error."""

    _where: str = PrivateAttr("")

    @property
    def where(self) -> str:
        """JSON path of this section in the config that it was read from; "" where it was made in Python."""
        return self._where


class BatchnormAdaptation(Section):
    """Re-estimation of the BatchNorm statistics when the model has just been compressed."""

    without_effect = frozenset({"num_bn_forget_steps", "num_bn_forget_samples"})

    num_bn_adaptation_samples: Count = 2000
    """Samples to run, rounded up to whole batches; 0 leaves the statistics as they are."""


class RangeInitParams(Section):
    """Settings of the percentile types."""

    min_percentile: Percentile = 0.1
    """Percentile that becomes the lower bound."""

    max_percentile: Percentile = 99.9
    """Percentile that becomes the upper bound."""

    @model_validator(mode="after")
    def _ordered(self) -> RangeInitParams:
        if self.min_percentile >= self.max_percentile:
            raise refusal(
                f"found {self.min_percentile}, expected less than max_percentile {self.max_percentile}", "min_percentile"
            )
        return self


class RangeInit(Section):
    """First values of the quantizers' ranges, from data. Weights need none."""

    num_init_samples: Count = 256
    """Samples to run, rounded up to whole batches; 0 skips the initialisation."""

    type: Literal["min_max", "mixed_min_max", "mean_min_max", "threesigma", "percentile", "mean_percentile"] = "mixed_min_max"
    """min_max: smallest and largest value; mixed_min_max: mean over samples of the extremes for activations, min_max for weights;
    mean_min_max: mean over batches of the extremes; threesigma: median -+ 3 scaled median absolute deviations; percentile: two
    percentiles of all values; mean_percentile: mean over batches of the two percentiles."""

    params: RangeInitParams = RangeInitParams()
    """Percentiles, for the percentile types."""


class PerLayerRangeInit(RangeInit):
    """The same for some quantizers: those whose place one entry of the array speaks of, and only one."""

    target_scopes: Scopes | None = None
    """Places: names of the nodes that own the weight or whose output or input is quantized, or of quantizers (`name|OUTPUT`)."""

    ignored_scopes: Scopes | None = None
    """Places that the entry does not speak of."""

    target_quantizer_group: Literal["weights", "activations"] | None = None
    """Which quantizers there; both groups where it is missing."""

    @model_validator(mode="after")
    def _speaks_of_places(self) -> PerLayerRangeInit:
        if self.target_scopes is None and self.ignored_scopes is None:
            raise refusal("found neither target_scopes nor ignored_scopes, expected at least one in an entry of an array")
        return self


def _one_or_array(value: Any) -> str:
    return "<array>" if isinstance(value, list | tuple) else "<object>"


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
                raise refusal(f"found with type {self.type}, expected with type {' or '.join(users)} only", key)
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


class QuantizationInitializer(Section):
    """What happens to the data of `register_default_init_args` before training starts."""

    range: Annotated[
        Annotated[RangeInit, Tag("<object>")] | Annotated[tuple[PerLayerRangeInit, ...], Tag("<array>")],
        Discriminator(_one_or_array),
    ] = RangeInit()
    """How the ranges of the quantizers start; an array has an entry for every quantizer."""

    precision: PrecisionInit | None = None
    """Different numbers of bits for different quantizers; all get those of `weights` and `activations` where it is missing."""

    batchnorm_adaptation: BatchnormAdaptation = BatchnormAdaptation()
    """BatchNorm statistics of the new model."""


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


class ActivationQuantizationSettings(QuantizationSettings):
    """The same for activations."""

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


class ScopeOverrides(Section):
    """Settings by scope. Of several scopes that match, each key comes from the last one, exact names after expressions."""

    weights: dict[Scope, ScopeOverride] = {}
    """By the name of the node that owns the weight."""

    activations: dict[Scope, ScopeOverride] = {}
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

    weights: QuantizationSettings = QuantizationSettings()
    """What holds for all weights."""

    activations: ActivationQuantizationSettings = ActivationQuantizationSettings()
    """What holds for all activations."""

    scope_overrides: ScopeOverrides = ScopeOverrides()
    """Exceptions to both, by scope."""

    initializer: QuantizationInitializer = QuantizationInitializer()
    """What data decides before training."""

    params: StagedParams | None = None
    """Quantizers that begin to work in the course of training; where it is missing, all work at once."""


class BinarizationInitializer(QuantizationInitializer):
    """What happens to the data of `register_default_init_args` before activations are binarized."""

    range: Annotated[
        Annotated[RangeInit, Tag("<object>")] | Annotated[tuple[PerLayerRangeInit, ...], Tag("<array>")],
        Discriminator(_one_or_array),
    ] = RangeInit(type="percentile")
    """How the scales of activations start: as the upper end of the range."""


class BinarizationConfig(ScopedConfig):
    """Binarization of two-dimensional convolutions: weights have two values, activations zero and one more."""

    algorithm: Literal["binarization"] = "binarization"
    """Name of the algorithm."""

    mode: Literal["xnor", "dorefa"] = "xnor"
    """Weights become the sign times the mean absolute value. xnor: of each output channel; dorefa: of the whole weight."""

    initializer: BinarizationInitializer = BinarizationInitializer()
    """What data decides when activations are first binarized."""

    params: StagedParams = StagedParams()
    """When binarization begins: by default in the second epoch."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the activations' scales and thresholds; that of the top level where it is missing."""


class SparsityInitializer(Section):
    """What happens to the data of `register_default_init_args` before training starts."""

    batchnorm_adaptation: BatchnormAdaptation = BatchnormAdaptation()
    """BatchNorm statistics of the new model."""


class SparsityParams(Section):
    """The schedule of the sparsity level, and what the level is about."""

    renamed = MappingProxyType(
        {
            "sparsity_steps": "sparsity_target_epoch",
            "sparsity_training_steps": "sparsity_freeze_epoch",
            "steps": "multistep_steps",
            "sparsity_levels": "multistep_sparsity_levels",
        }
    )

    schedule: Literal["polynomial", "exponential", "multistep", "adaptive"] = "polynomial"
    """How the level goes from sparsity_init to sparsity_target; adaptive: 0.05 more whenever the model has come within 0.03 of
    the present level."""

    sparsity_target: Level = 0.5
    """Share of zeros at the end; multistep: the last of its levels instead."""

    sparsity_target_epoch: Count = 90
    """Epoch in which the target is reached."""

    sparsity_freeze_epoch: Count = 100
    """Epoch from which on the masks stay as they are."""

    sparsity_level_setting_mode: Literal["global", "local"] = "global"
    """global: one level for all layers together; local: the level holds in every layer."""

    update_per_optimizer_step: Boolean = False
    """polynomial: raise the level in every step instead of every epoch."""

    steps_per_epoch: Size | None = None
    """Optimizer steps in an epoch, for update_per_optimizer_step; measured in the first epoch where it is missing."""

    multistep_steps: tuple[Count, ...] = (90,)
    """multistep: epochs in which the level changes."""

    multistep_sparsity_levels: tuple[Level, ...] = (0.1, 0.5)
    """multistep: the levels, one more than there are epochs in multistep_steps."""

    patience: Size = 1
    """adaptive: epochs that the model has to be at the present level before it rises."""

    power: Annotated[Number, Field(gt=0)] = 0.9
    """polynomial: exponent of the curve."""

    concave: Boolean = True
    """polynomial: whether the level rises fast first."""

    @model_validator(mode="after")
    def _one_level_more_than_steps(self) -> SparsityParams:
        levels, steps = len(self.multistep_sparsity_levels), len(self.multistep_steps)
        if self.schedule == "multistep" and levels != steps + 1:
            raise refusal(
                f"found {levels} levels, expected {steps + 1}: one more than multistep_steps", "multistep_sparsity_levels"
            )
        if self.schedule == "adaptive" and self.update_per_optimizer_step:
            raise refusal("found with schedule adaptive, which looks at whole epochs", "update_per_optimizer_step")
        return self


class MagnitudeSparsityParams(SparsityParams):
    """The schedule of the sparsity level, and which weights go first."""

    weight_importance: Literal["normed_abs", "abs"] = "normed_abs"
    """What is compared: absolute values, or absolute values over the L2 norm of the layer's weights."""


class MagnitudeSparsityConfig(ScopedConfig):
    """Magnitude sparsity: the smallest weights become zero, more of them from epoch to epoch."""

    algorithm: Literal["magnitude_sparsity"] = "magnitude_sparsity"
    """Name of the algorithm."""

    sparsity_init: Level = 0.0
    """Share of zeros at the start."""

    initializer: SparsityInitializer = SparsityInitializer()
    """What data decides before training."""

    params: MagnitudeSparsityParams = MagnitudeSparsityParams()
    """Schedule and importance."""


class LegrParams(Section):
    """The evolutionary search of learned_ranking (Chin et al. 2020, LeGR)."""

    generations: Size = 400
    """Rankings that are tried."""

    train_steps: Count = 200
    """Optimizer steps that the model is trained for with each of them."""

    max_pruning: Level | None = None
    """Share that is pruned in a trial: of the filters, or of the FLOPs with pruning_flops_target; the target where missing."""

    random_seed: Count = 42
    """Seed of the search."""

    population_size: Size = 64
    """Rankings that the search chooses parents from; as many are tried at random first."""

    num_samples: Size = 16
    """Rankings drawn from the population, the best of which is the next one's parent."""

    mutate_percent: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Share of the layers whose coefficients differ from the parent's."""

    scale_sigma: Annotated[Number, Field(ge=0)] = 1.0
    """Standard deviation of the logarithm of the scales at the start; mutations become smaller from trial to trial."""


class FilterPruningParams(Section):
    """The schedule of the pruning level, and which filters go."""

    renamed = MappingProxyType({"weight_importance": "filter_importance"})
    without_effect = frozenset({"prune_last_conv", "zero_grad"})

    schedule: Literal["exponential", "exponential_with_bias", "baseline"] = "exponential"
    """exponential: the share that is kept falls by the same factor every epoch; exponential_with_bias: three quarters of the
    target are reached after an eighth of pruning_steps; baseline: the target at once."""

    pruning_target: Level = 0.5
    """Share of the filters that are pruned in the end."""

    pruning_flops_target: Level | None = None
    """Share of the floating-point operations that pruning takes away in the end; stands instead of pruning_target."""

    num_init_steps: Count = 0
    """Epochs of training before pruning starts."""

    pruning_steps: Size = 100
    """Epochs in which the level rises to the target; after them the masks stay as they are."""

    filter_importance: Literal["L2", "L1", "geometric_median"] = "L2"
    """Which filters go first: those with the smallest L2 or L1 norm, or the smallest sum of distances to the others
    (He et al. 2019)."""

    interlayer_ranking_type: Literal["unweighted_ranking", "learned_ranking"] = "unweighted_ranking"
    """How filters of different layers compare under all_weights: as they are, or by coefficients that a search learns."""

    all_weights: Boolean = False
    """false: every layer loses the same share, and keeps a multiple of 8 filters; true: layers share it as their filters deserve.
    learned_ranking: true where it is missing, and cannot be false."""

    prune_first_conv: Boolean = False
    """Whether the convolutions that the model's inputs reach first are pruned. learned_ranking: true where it is missing."""

    prune_downsample_convs: Boolean = False
    """Whether convolutions with a stride are pruned. learned_ranking: true where it is missing."""

    prune_batch_norms: Boolean = True
    """Whether pruned filters lose scale and shift of their BatchNorm too. false: they still add their shift, and are left in the
    stripped model. Other normalizations always lose theirs."""

    legr_params: LegrParams = LegrParams()
    """learned_ranking: the search."""

    save_ranking_coeffs_path: str | None = None
    """learned_ranking: JSON file to write the learned coefficients to."""

    load_ranking_coeffs_path: str | None = None
    """learned_ranking: JSON file of save_ranking_coeffs_path; the search is skipped."""

    @property
    def target(self) -> float:
        """The last level of the schedule: of FLOPs with pruning_flops_target, else of filters."""
        return self.pruning_target if self.pruning_flops_target is None else self.pruning_flops_target

    @model_validator(mode="before")
    @classmethod
    def _learned_ranking_compares_all(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("interlayer_ranking_type") != "learned_ranking":
            return data
        if data.get("all_weights") is False:
            raise refusal("found false with learned_ranking, expected true: it ranks the filters of all layers", "all_weights")
        return {"all_weights": True, "prune_first_conv": True, "prune_downsample_convs": True, **data}

    @model_validator(mode="after")
    def _one_target(self) -> FilterPruningParams:
        if self.pruning_flops_target is not None and "pruning_target" in self.model_fields_set:
            raise refusal("found beside pruning_target, expected one of the two", "pruning_flops_target")
        return self

    @model_validator(mode="after")
    def _coefficients_are_of_learned_ranking(self) -> FilterPruningParams:
        for key in ("save_ranking_coeffs_path", "load_ranking_coeffs_path"):
            if getattr(self, key) is not None and self.interlayer_ranking_type != "learned_ranking":
                raise refusal("found with unweighted_ranking, expected with learned_ranking only", key)
        return self


class FilterPruningConfig(ScopedConfig):
    """Filter pruning: whole filters (output channels) become zero, more of them from epoch to epoch; stripping removes them."""

    algorithm: Literal["filter_pruning"] = "filter_pruning"
    """Name of the algorithm."""

    pruning_init: Level = 0.0
    """Level at the start, of what the target is about; with num_init_steps it begins after them."""

    initializer: SparsityInitializer = SparsityInitializer()
    """What data decides before training."""

    params: FilterPruningParams = FilterPruningParams()
    """Schedule and importance."""

    @model_validator(mode="after")
    def _rises(self) -> FilterPruningConfig:
        target = self.params.target
        biased = self.params.schedule == "exponential_with_bias"
        if self.pruning_init > target:
            raise refusal(f"found {self.pruning_init}, expected at most the target {target}", "pruning_init")
        if biased and target > 0 and self.pruning_init >= target * 5 / 7:
            raise refusal(
                f"found {self.pruning_init}, expected less than 5/7 of the target {target}: exponential_with_bias is steep first",
                "pruning_init",
            )
        return self


class SparseStructure(Section):
    """How the weights of some layers are sparsified: one by one, in blocks, or in whole rows or columns.

    Rows are outputs and columns inputs of a layer, whichever way round the framework stores its weight.
    """

    mode: Literal["fine", "block", "per_dim"]
    """fine: every weight by itself; block: blocks of sparse_factors; per_dim: whole rows (axis 0) or columns (axis 1)."""

    sparse_factors: tuple[Size, Size] | None = None
    """block: rows and columns of a block; they must divide the layer's."""

    axis: Annotated[Count, Field(le=1)] | None = None
    """per_dim: 0 for rows, 1 for columns."""

    target_scopes: Scopes
    """The layers, as exact names or as regular expressions marked with {re}. A layer may be in one entry only."""

    @model_validator(mode="after")
    def _of_its_mode(self) -> SparseStructure:
        wanted = {"block": "sparse_factors", "per_dim": "axis"}.get(self.mode)
        for key in ("sparse_factors", "axis"):
            if key == wanted and getattr(self, key) is None:
                raise refusal(f"the key {key!r} is missing, mode {self.mode!r} needs it")
            if key != wanted and getattr(self, key) not in (None, (1, 1)):
                raise refusal(f"found with mode {self.mode!r}, expected without it", key)
        return self


class MovementSparsityParams(Section):
    """When the importance scores begin to prune, how hard, and what happens at the end."""

    warmup_start_epoch: Annotated[Number, Field(ge=0)]
    """Epoch in which pruning begins; from 1 on, unless steps_per_epoch is given."""

    warmup_end_epoch: Annotated[Number, Field(gt=0)]
    """Epoch in which it ends: from here on the masks stay as they are."""

    importance_regularization_factor: Annotated[Number, Field(ge=0)]
    """Factor of the loss that pulls the scores down; the larger, the sparser."""

    enable_structured_masking: Boolean = True
    """At the end of the warm-up, prune whole attention heads and channels of feed-forward layers, where nothing of them is
    left, and restore what was pruned inside of the others."""

    power: Annotated[Number, Field(gt=0)] = 3.0
    """Exponent of the curve on which threshold and factor rise; fast first."""

    init_importance_threshold: Number | None = None
    """Threshold at the start; such that a thousandth of the weights is pruned where it is missing."""

    final_importance_threshold: Number = 0.0
    """Threshold at the end."""

    steps_per_epoch: Size | None = None
    """Optimizer steps in an epoch; measured in the first epoch where it is missing."""

    @model_validator(mode="after")
    def _in_order(self) -> MovementSparsityParams:
        if self.warmup_end_epoch <= self.warmup_start_epoch:
            raise refusal(
                f"found {self.warmup_end_epoch:g}, expected more than warmup_start_epoch {self.warmup_start_epoch:g}",
                "warmup_end_epoch",
            )
        if self.warmup_start_epoch < 1 and self.steps_per_epoch is None:
            raise refusal(
                f"the key 'steps_per_epoch' is missing, it is required with warmup_start_epoch {self.warmup_start_epoch:g}: "
                "there is no epoch before to measure it in"
            )
        return self


class MovementSparsityConfig(ScopedConfig):
    """Movement sparsity: every weight, block, row or column of a linear layer learns whether it is needed."""

    algorithm: Literal["movement_sparsity"] = "movement_sparsity"
    """Name of the algorithm."""

    params: MovementSparsityParams
    """Schedule and strength."""

    sparse_structure_by_scopes: tuple[SparseStructure, ...] = ()
    """What is pruned as a whole, by layer; every weight by itself where no entry is about the layer."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the importance scores."""


class RBSparsityParams(SparsityParams):
    """The schedule of the sparsity level that the loss pulls to."""

    schedule: Literal["polynomial", "exponential", "multistep", "adaptive"] = "exponential"
    """How the level goes from sparsity_init to sparsity_target; adaptive: 0.05 more whenever the model has come within 0.03 of
    the present level."""


class RBSparsityConfig(ScopedConfig):
    """Regularization-based sparsity: a score per weight is learned; weights with a negative one are zero, and a term in the loss
    pulls their share to a level that rises from epoch to epoch."""

    algorithm: Literal["rb_sparsity"] = "rb_sparsity"
    """Name of the algorithm."""

    sparsity_init: Level = 0.0
    """Level at the start."""

    params: RBSparsityParams = RBSparsityParams()
    """Schedule."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the scores; that of the top level where it is missing."""


class ConstSparsityConfig(ScopedConfig):
    """Constant sparsity: weights that are zero stay zero."""

    algorithm: Literal["const_sparsity"] = "const_sparsity"
    """Name of the algorithm."""


class KnowledgeDistillationConfig(Section):
    """Knowledge distillation: a term in the loss that pulls the model's outputs to those of the uncompressed model."""

    algorithm: Literal["knowledge_distillation"] = "knowledge_distillation"
    """Name of the algorithm."""

    type: Literal["mse", "softmax"]
    """mse: squared difference; softmax: cross-entropy with the teacher's softmax."""

    scale: Annotated[Number, Field(ge=0)] = 1.0
    """Factor of the term in the loss."""

    temperature: Annotated[Number, Field(gt=0)] = 1.0
    """softmax: both outputs are divided by it."""

    @model_validator(mode="after")
    def _temperature_is_of_softmax(self) -> KnowledgeDistillationConfig:
        if self.type == "mse" and "temperature" in self.model_fields_set:
            raise refusal("found with type mse, expected with type softmax only", "temperature")
        return self


class AccuracyAwareParams(Section):
    """How much accuracy may be lost, and how long the training may take."""

    renamed = MappingProxyType({"maximal_accuracy_degradation": "maximal_relative_accuracy_degradation"})

    maximal_relative_accuracy_degradation: Annotated[Number, Field(ge=0)] | None = None
    """Tolerated loss in percent of the uncompressed model's accuracy; instead of the absolute one."""

    maximal_absolute_accuracy_degradation: Annotated[Number, Field(ge=0)] | None = None
    """Tolerated loss in the units of the metric; instead of the relative one."""

    maximal_total_epochs: Size = 10000
    """Epochs after which training ends in any case; early_exit requires it."""

    initial_training_phase_epochs: Size | None = None
    """adaptive_compression_level: epochs with the config's own schedule, before the search for the highest rate begins."""

    patience_epochs: Size | None = None
    """adaptive_compression_level: epochs that a rate may take to come back into the budget."""

    initial_compression_rate_step: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """adaptive_compression_level: first change of the rate."""

    compression_rate_step_reduction_factor: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    """adaptive_compression_level: factor on the change when the search turns round."""

    lr_reduction_factor: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """adaptive_compression_level: factor on the learning rate when the search turns round."""

    minimal_compression_rate_step: Annotated[Number, Field(gt=0, lt=1)] = 0.025
    """adaptive_compression_level: the search ends when the change is smaller than this."""

    @model_validator(mode="after")
    def _one_degradation(self) -> AccuracyAwareParams:
        given = {name for name in DEGRADATIONS if getattr(self, name) is not None}
        if len(given) != 1:
            found = "both" if given else "neither of"
            raise refusal(f"found {found} {' and '.join(DEGRADATIONS)}, expected exactly one")
        if self.initial_compression_rate_step < self.minimal_compression_rate_step:
            raise refusal(
                f"found {self.initial_compression_rate_step}, expected minimal_compression_rate_step "
                f"{self.minimal_compression_rate_step} at least",
                "initial_compression_rate_step",
            )
        return self


DEGRADATIONS = ("maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation")
_EARLY_EXIT_KEYS = ("maximal_total_epochs", *DEGRADATIONS)


class AccuracyAwareTraining(Section):
    """Train until the accuracy is within the budget (early_exit), or search the highest compression rate that keeps it there."""

    mode: Literal["early_exit", "adaptive_compression_level"]
    """early_exit: stop as soon as all is compressed and accurate; adaptive_compression_level: change the rate to its highest."""

    params: AccuracyAwareParams
    """The budget."""

    @model_validator(mode="after")
    def _keys_of_the_mode(self) -> AccuracyAwareTraining:
        early = self.mode == "early_exit"
        needed = ("maximal_total_epochs",) if early else ("initial_training_phase_epochs", "patience_epochs")
        for key in needed:
            if key not in self.params.model_fields_set:
                raise refusal(f"the key {key!r} is missing, mode {self.mode} requires it", "params")
        for key in sorted(self.params.model_fields_set) if early else ():
            if key not in _EARLY_EXIT_KEYS:
                raise refusal(f"found with mode early_exit, {choose(key, _EARLY_EXIT_KEYS)}", "params", key)
        return self


_OLDER_DEVICES = {"VPU": "NPU", "NONE": "TRIAL", "cpu": "CPU", "gpu": "GPU", "vpu": "NPU"}


def _device_in_todays_spelling(value: Any) -> Any:
    if not isinstance(value, str) or value not in _OLDER_DEVICES:
        return value
    _deprecated(f"the target device {value!r} is called {_OLDER_DEVICES[value]!r} now")
    return _OLDER_DEVICES[value]


class TopLevel(Section):
    """The keys of the top level except `compression`. Others are allowed: they belong to the training script."""

    model_config = ConfigDict(extra="allow")
    not_built = frozenset({"bootstrapNAS"})
    renamed = MappingProxyType({"hw_config_type": "target_device"})

    input_info: Annotated[
        tuple[InputInfo, ...] | None, BeforeValidator(_as_array, json_schema_input_type=InputInfo | tuple[InputInfo, ...])
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
