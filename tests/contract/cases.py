"""The contract's table: one row per algorithm and option. A row alone runs on every adapter against the numpy reference.

The reference net is two linear layers. What therefore has no row is tested on both adapters elsewhere: `binarization`, which is
of convolutions (tests/binarization_reference.py, `test_*_binarization`); FLOPs of convolutions, learned ranking, attention heads
and residual groups (`test_*_filter_pruning`, `test_*_movement_sparsity`, `test_*_channels`); `hawq` and `autoq`
(tests/contract/precision.py); hidden units of recurrent layers (tests/recurrent_reference.py, `test_*_pruned_recurrent`); unified
scales (`test_*_two_inputs`); `accuracy_aware_training` (`test_*_accuracy_aware`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    name: str
    compression: Any  # the config's `compression`
    top: tuple[tuple[str, Any], ...] = ()  # further top-level keys
    ranges: tuple[tuple[str, str], ...] = ()  # range type by role, where it is not the general one


def _ranges(kind: str) -> dict[str, Any]:
    return {"range": {"type": kind, "num_init_samples": 16}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}


_RANGE = {"num_init_samples": 16}
INT8 = {"algorithm": "quantization", "initializer": _ranges("min_max")}
BY_HAND = {
    "bitwidth_per_scope": [
        [4, r"{re}fc1.*\|WEIGHT"],
        [3, r"{re}fc2.*\|WEIGHT"],
        [4, "{re}input"],
        [5, r"{re}(?i)relu.*\|output"],
    ]
}
SPARSE = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.1,
    "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 2, "sparsity_freeze_epoch": 10},
}
WANDA = {**SPARSE, "algorithm": "wanda_sparsity"}
PRUNE = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.15,
    "params": {"all_weights": True, "pruning_target": 0.7, "pruning_steps": 3},
}
RB = {  # the scores' learning rate is high, so that many cross zero within the contract's few steps
    "algorithm": "rb_sparsity",
    "compression_lr_multiplier": 40,
    "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 2, "sparsity_freeze_epoch": 10},
}
DISTIL = {"algorithm": "knowledge_distillation", "type": "softmax", "scale": 0.5, "temperature": 3}
HINTON = {"algorithm": "knowledge_distillation", "type": "kl", "temperature": 2}


def _sparse(**params: Any) -> dict[str, Any]:
    return {**SPARSE, "params": {**SPARSE["params"], **params}}


def _rb(**params: Any) -> dict[str, Any]:
    return {**RB, "params": {**RB["params"], **params}}


def _pruned(**params: Any) -> dict[str, Any]:
    return {**PRUNE, "params": {**PRUNE["params"], **params}}


def _pruned_flops(**params: Any) -> dict[str, Any]:
    return {**PRUNE, "params": {"all_weights": True, "pruning_flops_target": 0.6, "pruning_steps": 3, **params}}


def _moving(
    structures: dict[str, dict[str, Any]] | None = None, multiplier: float | None = None, **params: Any
) -> dict[str, Any]:
    """movement_sparsity; structures: by layer."""
    entry: dict[str, Any] = {
        "algorithm": "movement_sparsity",
        "params": {
            "warmup_start_epoch": 0,
            "warmup_end_epoch": 2,
            "steps_per_epoch": 2,
            "importance_regularization_factor": 0.5,
            "enable_structured_masking": False,
            **params,
        },
    }
    if structures:
        entry["sparse_structure_by_scopes"] = [{**s, "target_scopes": f"{{re}}{layer}"} for layer, s in structures.items()]
    return entry if multiplier is None else {**entry, "compression_lr_multiplier": multiplier}


def _connected(method: str = "rigl", **params: Any) -> dict[str, Any]:
    """dynamic_sparse_training whose connections move in every step from the second to the fifth."""
    moving = {} if method in ("static", "ac_dc", "sr_ste") else {"update_interval": 1, "end": 4, "drop_fraction": 0.4}
    level = {} if ":" in params.get("structure", "") else {"sparsity_target": 0.6}
    return {"algorithm": "dynamic_sparse_training", "params": {"method": method, **level, **moving, **params}}


def _corad(kind: str, weight: float = 3, distillation: float = 0.7, **regularization: Any) -> dict[str, Any]:
    return {
        "algorithm": "corad",
        "regularization": {"type": kind, "weight": weight, **regularization},
        "distillation": {"type": "softmax", "temperature": 2, "weight": distillation, "schedule": "linear", "ramp_epochs": 2},
    }


def _learned(algorithm: str, multiplier: float, **params: Any) -> dict[str, Any]:
    return {"algorithm": algorithm, "compression_lr_multiplier": multiplier, "params": params}


def _rounds(**params: Any) -> dict[str, Any]:
    return {"algorithm": "iterative_magnitude", "params": {"epochs_per_round": 1, **params}}


def _clusters(**params: Any) -> dict[str, Any]:
    return {"algorithm": "weight_clustering", "params": {"clusters": 4, **params}}


def _rate(**params: Any) -> dict[str, Any]:
    aim = {} if "lagrangian" in params else {"target_bits": 2}
    return {"algorithm": "ecsq", "params": {"levels": 17, **aim, **params}}


def _clipped(**params: Any) -> dict[str, Any]:
    return {"algorithm": "clip_q", "params": params}


def _product(multiplier: float = 1, **params: Any) -> dict[str, Any]:
    params = {"linear": {"subvector": 2, "codewords": 3}, "by_scope": {"{re}fc2": {"subvector": 4, "codewords": 2}}, **params}
    return {"algorithm": "product_quantization", "compression_lr_multiplier": multiplier, "params": params}


MOVING = _moving()
_ROWS, _COLUMNS = {"mode": "per_dim", "axis": 0}, {"mode": "per_dim", "axis": 1}
_BLOCKS = {"mode": "block", "sparse_factors": [4, 2]}


def _by(weights: dict[str, Any], activations: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """int8 with other quantizers."""
    return {**INT8, "weights": weights, "activations": activations or {}, **keys}


_LSQ, _PLUS = {"quantizer": "lsq", "bits": 4}, {"quantizer": "lsq_plus", "bits": 4}
_E4M3, _E5M2 = {"quantizer": "fp8_e4m3"}, {"quantizer": "fp8_e5m2"}

CASES = (
    Case("int8", INT8),
    Case("int8_mixed", {**INT8, "preset": "mixed"}),
    Case("int8_full_range", {**INT8, "overflow_fix": "disable"}),
    Case("int8_first_layer_only", {**INT8, "overflow_fix": "first_layer_only"}),
    Case("int8_trial", INT8, (("target_device", "TRIAL"),)),
    Case("int4_weights", {**INT8, "weights": {"bits": 4}}),
    Case("int2_asymmetric_weights", {**INT8, "weights": {"bits": 2, "mode": "asymmetric", "per_channel": False}}),
    Case("int4_activations_per_channel", {**INT8, "activations": {"bits": 4, "per_channel": True}}),
    Case("int8_signed_activations", {**INT8, "activations": {"signed": True}}),
    Case("int8_no_inputs", {**INT8, "quantize_inputs": False}),
    Case("int8_slow_ranges", {**INT8, "compression_lr_multiplier": 0.25}),
    Case("int8_slow_ranges_from_the_top", INT8, (("compression_lr_multiplier", 0.5),)),
    Case("int8_outputs", {**INT8, "quantize_outputs": True}),
    *(
        Case(f"int8_{kind}", {**INT8, "initializer": _ranges(kind)})
        for kind in ("mixed_min_max", "mean_min_max", "threesigma", "percentile", "mean_percentile")
    ),
    Case("int8_logarithm_scale", {**INT8, "weights": {"logarithm_scale": True}, "activations": {"logarithm_scale": True}}),
    Case("int8_logarithm_span", {**INT8, "preset": "mixed", "activations": {"logarithm_scale": True}}),
    Case(
        "int8_with_overrides",
        {
            **INT8,
            "scope_overrides": {
                "weights": {
                    "{re}fc[12]": {"bits": 4, "per_channel": False},
                    "{re}fc2": {"bits": 3, "initializer": {"range": {"type": "mean_percentile", "num_init_samples": 16}}},
                },
                "activations": {"{re}fc2": {"mode": "asymmetric", "bits": 5}, "{re}input": {"bits": 6, "signed": False}},
            },
        },
        ranges=(("fc2.weight", "mean_percentile"),),
    ),
    Case(
        "int8_ranges_per_layer",
        {
            **INT8,
            "initializer": {
                "range": [
                    {**_RANGE, "type": "min_max", "target_scopes": "{re}fc1", "target_quantizer_group": "weights"},
                    {**_RANGE, "type": "threesigma", "ignored_scopes": "{re}fc1", "target_quantizer_group": "weights"},
                    {**_RANGE, "type": "mean_min_max", "target_scopes": "{re}input", "target_quantizer_group": "activations"},
                    {**_RANGE, "type": "percentile", "target_scopes": ["{re}relu"], "target_quantizer_group": "activations"},
                ],
                "batchnorm_adaptation": {"num_bn_adaptation_samples": 0},
            },
        },
        ranges=(("fc1.weight", "min_max"), ("fc2.weight", "threesigma"), ("input", "mean_min_max"), ("relu", "percentile")),
    ),
    Case("int8_staged", {**INT8, "params": {"activations_quant_start_epoch": 2, "weights_quant_start_epoch": 1}}),
    Case(
        "int8_staged_activations_first", {**INT8, "params": {"activations_quant_start_epoch": 0, "weights_quant_start_epoch": 2}}
    ),
    Case("int8_staged_from_the_start", {**INT8, "params": {"activations_quant_start_epoch": 0, "weights_quant_start_epoch": 0}}),
    Case("int8_staged_with_masks", [{**INT8, "preset": "mixed", "params": {}}, SPARSE]),
    Case("int8_npu_four_bits", {**INT8, "weights": {"bits": 4}}, (("target_device", "NPU"),)),
    Case("int8_cpu_spr", INT8, (("target_device", "CPU_SPR"),)),
    Case("mixed_by_hand", {**INT8, "initializer": {**INT8["initializer"], "precision": BY_HAND}}),
    Case("lsq", _by(_LSQ, _LSQ)),
    Case("lsq_per_tensor", _by({**_LSQ, "bits": 3, "per_channel": False}, {**_LSQ, "signed": True})),
    Case("lsq_per_channel_activations", _by({"quantizer": "lsq"}, {**_LSQ, "per_channel": True})),
    Case("lsq_slow_steps", _by(_LSQ, _LSQ, compression_lr_multiplier=0.25)),
    Case("lsq_staged_with_masks", [_by(_LSQ, _LSQ, params={}), SPARSE]),
    Case("lsq_by_hand", _by(_LSQ, _LSQ, initializer={**INT8["initializer"], "precision": BY_HAND})),
    Case("lsq_plus", _by(_PLUS, _PLUS)),
    Case("lsq_plus_per_tensor", _by({**_PLUS, "per_channel": False}, {**_PLUS, "bits": 3})),
    Case("pact", _by({"bits": 4}, {"quantizer": "pact", "bits": 4})),
    Case("pact_signed", _by(_LSQ, {"quantizer": "pact", "bits": 4, "signed": True, "clipping_regularization_factor": 0.05})),
    Case("pact_slow", _by({"bits": 4}, {"quantizer": "pact", "bits": 3}, quantize_outputs=True, compression_lr_multiplier=0.5)),
    Case("dorefa", _by({"quantizer": "dorefa", "bits": 3}, {"quantizer": "dorefa", "bits": 4})),
    Case("dorefa_signed", _by({"quantizer": "dorefa", "bits": 2}, {"quantizer": "dorefa", "bits": 3, "signed": True})),
    Case("ternary", _by({"quantizer": "stretched_elastic", "levels": 3})),
    Case("apot", _by({"quantizer": "apot", "bits": 4}, _LSQ)),
    Case("apot_per_tensor", _by({"quantizer": "apot", "bits": 3, "per_channel": False})),
    Case("two_bits_stretched", _by({"quantizer": "stretched_elastic", "bits": 2}, _LSQ)),
    Case("two_bits_stretched_per_tensor", _by({"quantizer": "stretched_elastic", "levels": 4, "per_channel": False})),
    Case("fp8_e4m3", _by(_E4M3, _E4M3)),
    Case("fp8_e5m2", _by(_E5M2, _E5M2)),
    Case("fp8_per_tensor", _by({**_E4M3, "per_channel": False}, {**_E5M2, "per_channel": True})),
    Case(
        "quantizers_by_scope",
        _by(
            {"bits": 4},
            scope_overrides={
                "weights": {"{re}fc1": {"quantizer": "stretched_elastic", "bits": 2}, "{re}fc2": _LSQ},
                "activations": {"{re}fc2": {"quantizer": "pact"}, "{re}input": {"quantizer": "fp8_e4m3"}},
            },
        ),
    ),
    Case("sparsity_polynomial", SPARSE),
    Case("wanda", WANDA),
    Case("wanda_with_int8", [WANDA, INT8]),
    Case("sparsity_convex", _sparse(concave=False, power=2)),
    Case("sparsity_exponential", _sparse(schedule="exponential")),
    Case("sparsity_multistep", _sparse(schedule="multistep", multistep_steps=[1, 2], multistep_sparsity_levels=[0.2, 0.4, 0.7])),
    Case("sparsity_local", _sparse(sparsity_level_setting_mode="local")),
    Case("sparsity_abs", _sparse(weight_importance="abs")),
    Case("sparsity_every_step", _sparse(update_per_optimizer_step=True, steps_per_epoch=2)),
    Case("sparsity_every_step_measured", _sparse(update_per_optimizer_step=True)),
    Case("sparsity_frozen", _sparse(sparsity_freeze_epoch=1)),
    Case("sparsity_adaptive", _sparse(schedule="adaptive")),
    Case("rb", RB),
    Case("rb_own_learning_rate", {**_rb(), "compression_lr_multiplier": 1}),
    Case("rb_local", _rb(sparsity_level_setting_mode="local")),
    Case("rb_polynomial", _rb(schedule="polynomial", sparsity_target_epoch=1)),
    Case("rb_multistep", _rb(schedule="multistep", multistep_steps=[1, 2], multistep_sparsity_levels=[0.2, 0.4, 0.7])),
    Case("rb_adaptive", _rb(schedule="adaptive", patience=1)),
    Case("rb_frozen", _rb(sparsity_freeze_epoch=1)),
    Case("rb_int8", [{**INT8, "preset": "mixed"}, RB]),
    Case("const", {"algorithm": "const_sparsity"}),
    Case("const_int8", [INT8, {"algorithm": "const_sparsity"}]),
    Case("pruning_exponential", PRUNE),
    Case("pruning_exponential_with_bias", _pruned(schedule="exponential_with_bias")),
    Case("pruning_baseline", _pruned(schedule="baseline", num_init_steps=1)),
    Case("pruning_after_a_start", _pruned(num_init_steps=1, pruning_steps=2)),
    Case("pruning_frozen", _pruned(pruning_steps=1)),
    Case("pruning_L1", _pruned(filter_importance="L1")),
    Case("pruning_geometric_median", _pruned(filter_importance="geometric_median")),
    Case("pruning_flops", _pruned_flops()),
    Case("movement_fine", MOVING),
    Case("movement_measured", _moving(warmup_start_epoch=1, steps_per_epoch=None)),
    Case("movement_thresholds", _moving(init_importance_threshold=-0.1, final_importance_threshold=0.05, power=2)),
    Case("movement_capped", _moving(init_importance_threshold=-1, final_importance_threshold=10)),
    Case("movement_blocks", _moving({"fc1": _BLOCKS, "fc2": {"mode": "block", "sparse_factors": [3, 2]}})),
    Case("movement_columns", _moving({"fc1": _COLUMNS, "fc2": {"mode": "fine"}})),
    Case("movement_slow_scores", _moving({"fc1": _BLOCKS}, multiplier=0.25)),
    Case("movement_channels", _moving({"fc1": _ROWS, "fc2": _COLUMNS}, enable_structured_masking=True)),
    Case("movement_ends_early", _moving({"fc1": _BLOCKS}, warmup_end_epoch=1, enable_structured_masking=True)),
    Case("dst_static", _connected("static")),
    Case("dst_set", _connected("set")),
    Case("dst_set_constant_fan_in", _connected("set", structure="constant_fan_in")),
    Case("dst_rigl", _connected()),
    Case("dst_rigl_uniform_constant", _connected(distribution="uniform", anneal="constant", update_interval=2, end=None)),
    Case("dst_rigl_sparse_initialization", _connected(sparse_initialization=True)),
    Case("dst_rigl_by_scope", _connected(distribution={"{re}fc1": 0.7})),
    Case("dst_rigl_constant_fan_in", _connected(structure="constant_fan_in", sparsity_target=0.4)),
    Case("dst_rigl_one_of_two", _connected(structure="1:2")),
    Case("dst_rigl_blocks", _connected(structure="block", block=[1, 2], distribution="uniform")),
    Case("dst_rigl_channels", _connected(structure="channel", sparsity_target=0.4, distribution="uniform")),
    Case("dst_top_kast", _connected("top_kast", regularization=0.05)),
    Case("dst_top_kast_channels", _connected("top_kast", structure="channel", sparsity_target=0.4, extra_density=0.2)),
    Case("dst_ac_dc", _connected("ac_dc", warmup_epochs=0, compressed_epochs=1, decompressed_epochs=1, final_epoch=2)),
    Case("dst_granet", _connected("granet", sparsity_init=0.2)),
    Case("dst_sr_ste", _connected("sr_ste", structure="1:2", decay=0.2)),
    Case("dst_int8_distillation", [_connected(), INT8, DISTIL]),
    Case("iterative_ratio", _rounds(sparsity_target=0.6)),
    Case("iterative_by_scope", _rounds(sparsity_target=0.6, distribution={"{re}fc2": 0.3})),
    Case("iterative_quality_l1", _rounds(quality=0.45, regularization="l1", regularization_weight=0.01)),
    Case(
        "iterative_late_l2",
        _rounds(rounds=2, start_epoch=1, sparsity_target=0.5, regularization="l2", regularization_weight=0.02),
    ),
    Case("iterative_dead_neurons", _rounds(rounds=1, sparsity_target=0.82)),
    Case("iterative_int8", [_rounds(quality=0.3), INT8]),
    Case("soft_threshold", _learned("soft_threshold", 1, initial_threshold=-1, weight=0.5)),
    Case("soft_threshold_int8", [_learned("soft_threshold", 3, initial_threshold=-0.5, weight=1, ramp_epochs=1), INT8]),
    Case("l0", _learned("l0_sparsity", 20, weight=0.5, initial_keep_probability=0.4)),
    Case("l0_ramp_int8", [_learned("l0_sparsity", 40, weight=3, warmup_epochs=1, ramp_epochs=2), INT8]),
    Case("variational_dropout", _learned("variational_dropout", 1, weight=0.7, initial_log_variance=-3)),
    Case("variational_dropout_late", _learned("variational_dropout", 5, weight=2, warmup_epochs=1, threshold=0.5)),
    Case("clip_q_late_by_scope", _clipped(start_epoch=1, by_scope={"{re}fc1": {"pruning": 0.6, "bits": 2}})),
    Case("clip_q_masked", [SPARSE, _clipped(pruning=0.2, bits=4)]),
    Case("product_codes", _product()),
    Case("product_codes_for_the_weights", _product(0.5, error_correction=False)),
    Case("product_codes_late", _product(2, start_epoch=1)),
    Case("product_codes_int8", [INT8, _product(error_correction=False, start_epoch=2)]),
    Case("distillation_softmax", DISTIL),
    Case("distillation_hinton", {**HINTON, "task_weight": 0.3}),
    Case("distillation_hinton_int8", [INT8, {**HINTON, "task_weight": 0.1}]),
    Case("distillation_features", {**DISTIL, "features": [{"student": "{re}(?i)relu", "weight": 0.5}]}),
    Case("distillation_features_projected", [{**DISTIL, "features": [{"student": "{re}(?i)relu", "teacher": "{re}fc2"}]}, INT8]),
    Case("distillation_mse", {"algorithm": "knowledge_distillation", "type": "mse", "scale": 2.0}),
    Case("movement_int8_distillation", [MOVING, INT8, DISTIL]),
    Case("corad_l1", _corad("l1")),
    Case("corad_l1_proximal", _corad("l1", proximal_step=0.05, weight=50, schedule="linear", ramp_epochs=2)),
    Case("corad_group_lasso", _corad("group_lasso", schedule="multistep", multistep_steps=[1], multistep_factors=[0.5, 2])),
    Case("corad_group_lasso_proximal", _corad("group_lasso", proximal_step=0.05, weight=60, warmup_epochs=1)),
    Case("corad_entropy_every_step", {**_corad("entropy", schedule="cubic", ramp_epochs=2), "steps_per_epoch": 2}),
    Case("corad_l0", {**_corad("l0", schedule="cubic", ramp_epochs=2), "compression_lr_multiplier": 40}),
    Case("corad_latency", _corad("latency", delta=0.3, schedule="cubic", ramp_epochs=2)),
    Case("corad_bit_width_int8", [_corad("bit_width", delta=0.1), INT8]),
    Case("corad_alone", {"algorithm": "corad", "regularization": {"type": "l1", "weight": 3}}),
    Case("corad_switched_off", _corad("l1", weight=0, distillation=0)),
    Case("corad_with_all", [_corad("l1", proximal_step=0.05, weight=50), INT8, SPARSE, DISTIL]),
    Case("clustered", _clusters()),
    Case("clustered_from_densities_slowly", {**_clusters(clusters=6, initial="density"), "compression_lr_multiplier": 0.25}),
    Case("clustered_over_the_network_late", _clusters(code_books="network", start_epoch=1)),
    Case("int8_of_pruned_and_clustered", [INT8, SPARSE, _clusters(clusters=3, initial="density", start_epoch=2)]),
    Case("ecsq", _rate(code_books="layer")),
    Case("ecsq_few_bits_over_the_network", _rate(target_bits=1.2, start_epoch=1)),
    Case("ecsq_lagrangian", _rate(lagrangian=0.05, code_books="layer")),
    Case("ecsq_uniform", _rate(method="uniform", code_books="layer")),
    Case(
        "ecsq_uniform_of_pruned",
        [_rounds(sparsity_target=0.5, rounds=2), _rate(method="uniform", target_bits=1.5, start_epoch=1)],
    ),
    Case("all_together", [INT8, SPARSE, DISTIL]),
    Case("pruning_with_all", [INT8, SPARSE, PRUNE, DISTIL]),
    Case("pruning_with_learned_masks_and_all", [PRUNE, RB, {**INT8, "preset": "mixed"}, DISTIL]),
    Case("all_together_in_another_order", [DISTIL, INT8, SPARSE]),
)
