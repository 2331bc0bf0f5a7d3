"""The config language: what loads, with which values, and what each mistake is told."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from nncf_ext import ConfigError, NNCFConfig, __version__
from nncf_ext.algorithms import ALGORITHMS, KNOWN_NOT_BUILT
from nncf_ext.algorithms.filter_pruning import FilterPruning
from nncf_ext.config.loader import loads
from nncf_ext.config.quantization import QuantizationConfig
from nncf_ext.config.section import Section
from nncf_ext.nncf_config import json_schema, validate_file
from nncf_ext.schedules import adaptive

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.json"))


def compression(**entry):
    return {"compression": entry}


def quantization(**keys):
    return compression(algorithm="quantization", **keys)


def sparsity(**keys):
    return compression(algorithm="magnitude_sparsity", **keys)


def distillation(**keys):
    return compression(algorithm="knowledge_distillation", **keys)


def pruning(**keys):
    return compression(algorithm="filter_pruning", **keys)


def precision(**keys):
    return quantization(initializer={"precision": keys})


def test_package_exports():
    assert NNCFConfig.__module__ == "nncf_ext.nncf_config"
    assert issubclass(ConfigError, ValueError)
    assert __version__.count(".") == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_in_configs_loads(path):
    config = NNCFConfig.from_json(path)
    assert config.algorithms()
    assert str(path) in validate_file(path)
    jsonschema.validate(json.loads(json.dumps(config)), json_schema())


def test_demo_config_combines_the_three_algorithms():
    masks, quantizers, teacher = NNCFConfig.from_json(CONFIGS[0].with_name("demo.json")).algorithms()
    assert (masks.algorithm, masks.params.sparsity_target) == ("magnitude_sparsity", 0.6)
    assert masks.params.sparsity_target_epoch < 6
    assert quantizers.algorithm == "quantization"
    assert (teacher.algorithm, teacher.type) == ("knowledge_distillation", "softmax")


# The loader


def test_comments_and_trailing_commas():
    text = """{
        // a line comment, with "quotes" and a trailing comma,
        "a": [1, 2, /* inside */ ], /* over
        two lines, } */ "url": "http://x/*no*/,]", // end
        "b": {"c": "\\"//\\"",},
    }"""
    assert loads(text) == {"a": [1, 2], "url": "http://x/*no*/,]", "b": {"c": '"//"'}}


def test_last_of_duplicate_keys_wins():
    assert loads('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ('{"a": 1\n "b": 2}', 2, 2, "expecting ',' delimiter"),
        ('// two\n// lines\n{"a": }', 3, 7, "expecting value"),
        ('{"a": /* long\n comment */ x}', 2, 13, "expecting value"),
        ('{\n  # no\n  "a": 1}', 2, 3, "comments start with //"),
        ("{'a': 1}", 1, 2, "strings take double quotes"),
        ('{"a": [1,, ]}', 1, 10, ""),
        ("[,]", 1, 2, "expecting value"),
        ('{"a": 1} /* open', 1, 10, "extra data"),
        ("", 1, 1, "expecting value"),
    ],
)
def test_syntax_errors_say_where(text, line, column, words):
    with pytest.raises(ConfigError) as caught:
        loads(text, "my.json")
    message, shown, caret = str(caught.value).split("\n")
    assert message.startswith(f"my.json:{line}:{column}: ")
    assert words in message
    assert shown == f"    {text.split(chr(10))[line - 1]}"
    assert caret.index("^") == column + 3


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', '{"a": -Infinity}', '{"a": ' + "1" * 5000 + "}"])
def test_what_json_readers_choke_on(text):
    with pytest.raises(ConfigError, match="my.json"):
        loads(text, "my.json")


def test_from_json_names_the_file(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"compression": ')
    with pytest.raises(ConfigError, match=r"broken\.json:1:17"):
        NNCFConfig.from_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match="not UTF-8"):
        NNCFConfig.from_json(path)
    with pytest.raises(FileNotFoundError):
        NNCFConfig.from_json(tmp_path / "missing.json")
    path.write_text('\ufeff{"epochs": 3}', encoding="utf-8")  # a byte-order mark, as Windows editors write it
    assert NNCFConfig.from_json(str(path)) == {"epochs": 3}


# What is accepted


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"compression": []},
        {"model": "resnet18", "batch_size": 32, "log_dir": "runs", "disable_shape_matching": True, "optimizer": {"type": "Adam"}},
        {"ignored_scopes": "a", "target_scopes": ["b", "{re}c"]},
        {"input_info": {"sample_size": [1, 3, 224, 224.0]}},
        {"input_info": [{"sample_size": [1, 8], "type": "long", "filler": "zeros", "keyword": "ids"}]},
        *({"target_device": device} for device in ("ANY", "CPU", "GPU", "NPU", "TRIAL", "CPU_SPR")),
        quantization(),
        quantization(weights={"bits": 4.0, "mode": "asymmetric", "signed": False, "per_channel": True, "ignored_scopes": ["x"]}),
        quantization(activations={"bits": 2, "target_scopes": "{re}x", "validate_scopes": False}),
        quantization(preset="mixed", quantize_inputs=False, quantize_outputs=True, overflow_fix="first_layer_only"),
        quantization(export_to_onnx_standard_ops=True),
        quantization(initializer={"range": {"type": "percentile", "params": {"min_percentile": 1, "max_percentile": 99}}}),
        quantization(initializer={"range": {"num_init_samples": 0}, "batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}),
        sparsity(sparsity_init=0, params={"schedule": "exponential", "sparsity_target": 0.9}),
        sparsity(params={"schedule": "multistep", "multistep_steps": [1, 2], "multistep_sparsity_levels": [0, 0.2, 0.4]}),
        sparsity(params={"update_per_optimizer_step": True, "steps_per_epoch": 10, "weight_importance": "abs", "concave": False}),
        sparsity(params={"sparsity_level_setting_mode": "local"}),
        sparsity(params={"schedule": "adaptive", "patience": 2}),
        compression(algorithm="rb_sparsity", sparsity_init=0.1, compression_lr_multiplier=2, params={"schedule": "adaptive"}),
        compression(algorithm="const_sparsity", ignored_scopes=["x"]),
        distillation(type="mse", scale=10),
        distillation(type="softmax", temperature=3),
    ],
    ids=str,
)
def test_accepted(content):
    assert NNCFConfig.from_dict(content) == content
    jsonschema.validate(content, json_schema())


def test_defaults_are_those_of_nncf():
    (masks,) = NNCFConfig.from_dict(sparsity()).algorithms()
    assert masks.model_dump() == {
        "algorithm": "magnitude_sparsity",
        "ignored_scopes": (),
        "target_scopes": None,
        "validate_scopes": True,
        "sparsity_init": 0.0,
        "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 2000, "num_bn_adaptation_steps": None}},
        "params": {
            "schedule": "polynomial",
            "sparsity_target": 0.5,
            "sparsity_target_epoch": 90,
            "sparsity_freeze_epoch": 100,
            "sparsity_level_setting_mode": "global",
            "weight_importance": "normed_abs",
            "update_per_optimizer_step": False,
            "steps_per_epoch": None,
            "multistep_steps": (90,),
            "multistep_sparsity_levels": (0.1, 0.5),
            "patience": 1,
            "power": 0.9,
            "concave": True,
        },
    }
    (scores,) = NNCFConfig.from_dict(compression(algorithm="rb_sparsity")).algorithms()
    common = {name: value for name, value in masks.params.model_dump().items() if name != "weight_importance"}
    assert scores.params.model_dump() == {**common, "schedule": "exponential"}
    assert scores.sparsity_init == 0 and scores.compression_lr_multiplier is None
    (quantizers,) = NNCFConfig.from_dict(quantization()).algorithms()
    assert (quantizers.preset, quantizers.overflow_fix) == ("performance", "enable")
    assert (quantizers.quantize_inputs, quantizers.quantize_outputs) == (True, False)
    assert (quantizers.weights.mode, quantizers.weights.bits, quantizers.weights.signed) == (None, 8, None)
    ranges = quantizers.initializer.range
    assert (ranges.num_init_samples, ranges.type) == (256, "mixed_min_max")
    assert (ranges.params.min_percentile, ranges.params.max_percentile) == (0.1, 99.9)
    (teacher,) = NNCFConfig.from_dict(distillation(type="softmax")).algorithms()
    assert (teacher.scale, teacher.temperature) == (1.0, 1.0)
    assert NNCFConfig().target_device == "ANY"
    assert NNCFConfig().input_infos() == ()


def test_object_and_array_of_one_mean_the_same():
    one = NNCFConfig.from_dict({**quantization(), "input_info": {"sample_size": [1, 2]}})
    many = NNCFConfig.from_dict({"compression": [{"algorithm": "quantization"}], "input_info": [{"sample_size": [1, 2]}]})
    assert [a.model_dump() for a in one.algorithms()] == [a.model_dump() for a in many.algorithms()]
    assert one.input_infos() == many.input_infos()
    assert one.input_infos()[0].sample_size == (1, 2)


def test_scopes_of_the_top_level_are_merged_in():
    config = NNCFConfig.from_dict(
        {
            "ignored_scopes": ["top"],
            "target_scopes": "{re}all",
            "compression": [
                {"algorithm": "quantization", "ignored_scopes": "own"},
                {"algorithm": "magnitude_sparsity", "target_scopes": ["mine"]},
                {"algorithm": "knowledge_distillation", "type": "mse"},
            ],
        }
    )
    quantizers, masks, _ = config.algorithms()
    assert (quantizers.ignored_scopes, quantizers.target_scopes) == (("own", "top"), ("{re}all",))
    assert (masks.ignored_scopes, masks.target_scopes) == (("top",), ("mine",))
    assert (quantizers.json_path, masks.json_path) == ("compression[0]", "compression[1]")
    assert quantizers.path("initializer.range") == "compression[0].initializer.range"
    assert QuantizationConfig().json_path == ""
    assert (QuantizationConfig().path("bits"), QuantizationConfig().path()) == ("quantization.bits", "quantization")


# What NNCF 2.x takes: zero where it is a number of epochs or steps, and keys without effect


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (sparsity(params={"schedule": "adaptive", "update_per_optimizer_step": True}), "'update_per_optimizer_step'"),
        (sparsity(params={"schedule": "exponential", "update_per_optimizer_step": True}), "with schedule exponential"),
        (distillation(type="mse", temperature=5), "'temperature' has no effect with type mse"),
        (pruning(params={"save_ranking_coeffs_path": "x.json"}), "'save_ranking_coeffs_path'"),
        (pruning(params={"load_ranking_coeffs_path": "x.json"}), "'load_ranking_coeffs_path' has no effect with unweighted_r"),
        (precision(bits=[4]), "'bits' has no effect with type manual, it belongs to type hawq or autoq"),
        (precision(type="hawq", bitwidth_per_scope=[]), "'bitwidth_per_scope' has no effect with type hawq"),
    ],
)
def test_keys_without_effect_are_taken_with_a_warning(content, key):
    with pytest.warns(UserWarning, match=f"config: .*{key}"):
        NNCFConfig.from_dict(content)


@pytest.mark.parametrize(
    "params",
    [
        {"initial_training_phase_epochs": 0},
        {"patience_epochs": 0},
        {"maximal_total_epochs": 0},
        {"initial_compression_rate_step": 0.01},
        {"initial_compression_rate_step": 0},
        {"minimal_compression_rate_step": 0},
        {"compression_rate_step_reduction_factor": 1},
        {"lr_reduction_factor": 2},
        {"maximal_relative_accuracy_degradation": -1},
    ],
    ids=str,
)
def test_budgets_of_accuracy_aware_training_that_nncf_takes(params):
    given = {
        "initial_training_phase_epochs": 1,
        "patience_epochs": 1,
        "maximal_relative_accuracy_degradation": 1,
        **params,
    }
    config = NNCFConfig.from_dict({"accuracy_aware_training": {"mode": "adaptive_compression_level", "params": given}})
    settings = config.accuracy_aware_training
    assert settings is not None
    assert {key: getattr(settings.params, key) for key in params} == params


def test_no_epochs_of_pruning_reach_the_target_at_once():
    for schedule in ("baseline", "exponential", "exponential_with_bias"):
        content = pruning(params={"schedule": schedule, "pruning_steps": 0, "pruning_target": 0.3, "num_init_steps": 1})
        (algorithm,) = NNCFConfig.from_dict(content).algorithms()
        assert isinstance(algorithm, FilterPruning)
        assert [algorithm.level(epoch) for epoch in range(3)] == [0, 0.3, 0.3]


def test_patience_of_none_raises_the_level_every_epoch():
    (algorithm,) = NNCFConfig.from_dict(sparsity(params={"schedule": "adaptive", "patience": 0})).algorithms()
    assert algorithm.params.patience == 0
    assert adaptive(0.0, 0.2, 0.5, 0, 0) == (pytest.approx(0.25), 0)


# What is rejected, and how


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # the probes of NNCF 2.14's own schema
        (quantization(mode="symmetric"), "compression.mode: unknown key"),
        (quantization(bits=8), "compression.bits: unknown key"),
        ({"input_info": {"sample_size": [1], "shape": [1]}}, "input_info[0].shape: unknown key"),
        ({"target_device": "TPU"}, 'target_device: found "TPU", expected one of ANY, CPU, GPU, NPU, TRIAL, CPU_SPR'),
        (sparsity(params={"step": 0.1}), "compression.params.step: unknown key"),
        (sparsity(params={"eps": 0.1}), "compression.params.eps: unknown key"),
        (sparsity(params={"check_sparsity_masks": True}), "compression.params.check_sparsity_masks: unknown key"),
        (sparsity(compression_lr_multiplier=2), "compression.compression_lr_multiplier: unknown key"),
        (compression(algorithm="rb_sparsity", initializer={}), "compression.initializer: unknown key"),
        (compression(algorithm="rb_sparsity", params={"weight_importance": "abs"}), "compression.params.weight_importance: unkn"),
        (compression(algorithm="const_sparsity", params={}), "compression.params: unknown key"),
        (
            {"compression": [{"algorithm": "magnitude_sparsity"}, {"algorithm": "quantization"}, {"algorithm": "rb_sparsity"}]},
            "compression[2]: found 'rb_sparsity' beside 'magnitude_sparsity', expected one sparsity algorithm",
        ),
        (distillation(), "compression: the key 'type' is missing"),
        ({"compression": [{"algorithm": "quantization"}] * 2}, "compression[1]: found a second entry for 'quantization'"),
        ({"compression": {}}, "compression: the key 'algorithm' is missing, expected one of quantization, "),
        ({"compression": [{"algorithm": "bootstrapNAS"}]}, "compression[0].algorithm: 'bootstrapNAS' is known, not built yet"),
        # keys and values
        (
            {"compression": [{"algorithm": "quantization", "initializer": {"range": {"type": "min_maxx"}}}]},
            'compression[0].initializer.range.type: found "min_maxx", expected one of min_max, mixed_min_max, mean_min_max, '
            "threesigma, percentile, mean_percentile; did you mean 'min_max'?",
        ),
        (quantization(initialiser={}), "compression.initialiser: unknown key, did you mean 'initializer'?"),
        ({"input_info": {"dims": [1]}}, "input_info[0].dims: unknown key, expected one of sample_size, type, filler, keyword"),
        (quantization(weights={"bitz": 8}), "compression.weights.bitz: unknown key"),
        (quantization(weights={"bits": 4.5}), "compression.weights.bits: found 4.5, expected an integer"),
        (quantization(weights={"bits": 9}), "compression.weights.bits: found 9, expected less than or equal to 8"),
        (quantization(weights={"bits": 1}), "compression.weights.bits: found 1, expected greater than or equal to 2"),
        (quantization(weights={"bits": True}), "compression.weights.bits: found true, expected an integer"),
        (quantization(weights={"bits": "8"}), 'compression.weights.bits: found "8", expected an integer'),
        (quantization(weights=[]), "compression.weights: found [], expected an object"),
        (quantization(quantize_inputs=1), "compression.quantize_inputs: found 1, expected true or false"),
        (quantization(preset="Performance"), "did you mean 'performance'?"),
        (quantization(ignored_scopes=[1]), "compression.ignored_scopes[0]: found 1, expected a string"),
        (quantization(ignored_scopes=["{re}("]), "compression.ignored_scopes[0]: '{re}(' is no regular expression"),
        (quantization(ignored_scopes={"a": 1}), 'compression.ignored_scopes[0]: found {"a": 1}, expected a string'),
        (
            quantization(initializer={"range": {"num_init_samples": -1}}),
            "compression.initializer.range.num_init_samples: found -1",
        ),
        (
            quantization(initializer={"range": {"params": {"min_percentile": 60, "max_percentile": 40}}}),
            "compression.initializer.range.params.min_percentile: found 60",
        ),
        (sparsity(sparsity_init=False), "compression.sparsity_init: found false, expected a number"),
        (sparsity(params={"sparsity_target": 1}), "compression.params.sparsity_target: found 1, expected less than 1"),
        (sparsity(params={"power": float("inf")}), "compression.params.power: found Infinity, expected a finite number"),
        (
            sparsity(params={"schedule": "multistep", "multistep_steps": [1, 2], "multistep_sparsity_levels": [0.1]}),
            "compression.params.multistep_sparsity_levels: found 1 levels, expected 3",
        ),
        (distillation(type="hint"), 'compression.type: found "hint", expected one of mse, softmax, kl'),
        (distillation(type="mse", ignored_scopes=[]), "compression.ignored_scopes: unknown key"),
        ({"input_info": {}}, "input_info[0]: the key 'sample_size' is missing"),
        ({"input_info": {"sample_size": [1, 0]}}, "input_info[0].sample_size[1]: found 0"),
        ({"input_info": 3}, "input_info[0]: found 3, expected an object"),
        # the shape of the whole
        ([], "top level: found [], expected an object"),
        ({"compression": None}, "compression: found null, expected an object or an array of objects"),
        ({"compression": "quantization"}, 'compression: found "quantization", expected an object'),
        ({"compression": ["quantization"]}, 'compression[0]: found "quantization", expected an object'),
        ({"compression": [{"algorithm": 3}]}, "compression[0].algorithm: found 3, expected one of"),
        ({"compression": [{"algorithm": "quantisation"}]}, "did you mean 'quantization'?"),
        ({"compression": {"algorithm": "quantization", "a b": 1}}, 'compression["a b"]: unknown key'),
        ({"compression": {"algorithm": "quantization", 3: 1}}, 'compression["3"]: unknown key'),
        (
            quantization(initializer={"range": [{"type": "min_max"}]}),
            "initializer.range[0]: found neither target_scopes nor ignored",
        ),
        (
            quantization(initializer={"range": [{"typ": 1}]}),
            "compression.initializer.range[0].typ: unknown key, did you mean 'type'",
        ),
        (quantization(initializer={"range": 3}), "compression.initializer.range: found 3, expected an object"),
        (quantization(scope_overrides={"weights": {"{re}(": {}}}), "is no regular expression"),
        (
            quantization(params={"activations_quant_start_epoch": -1}),
            "compression.params.activations_quant_start_epoch: found -1",
        ),
        # the outermost mistake comes first
        (quantization(weights={"mode": "x"}, preset="x"), 'compression.preset: found "x"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rejected(content, message):
    with pytest.raises(ConfigError) as caught:
        NNCFConfig.from_dict(content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_former_name_is_read_as_the_present_one():
    with pytest.warns(DeprecationWarning, match=r"compression\[0\].algorithm: 'experimental_quantization' is now called 'quant"):
        (algorithm,) = NNCFConfig.from_dict(
            {"compression": [{"algorithm": "experimental_quantization", "weights": {"bits": 4}}]}
        ).algorithms()
    assert (algorithm.algorithm, algorithm.weights.bits) == ("quantization", 4)
    both = {"compression": [{"algorithm": "experimental_quantization"}, {"algorithm": "quantization"}]}
    with pytest.warns(DeprecationWarning), pytest.raises(ConfigError, match="found a second entry for 'quantization'"):
        NNCFConfig.from_dict(both)
    jsonschema.validate(both, json_schema())


def test_the_key_of_a_scope_is_in_the_path_of_a_mistake():
    with pytest.raises(ConfigError) as caught:
        NNCFConfig.from_dict(quantization(scope_overrides={"weights": {"{re}fc": {"bits": 1}}}))
    assert str(caught.value) == 'compression.scope_overrides.weights["{re}fc"].bits: found 1, expected greater than or equal to 2'


NOT_BUILT = [
    *((compression(algorithm=name), "compression.algorithm") for name in sorted(KNOWN_NOT_BUILT)),
    ({"bootstrapNAS": {}}, "bootstrapNAS"),
]


@pytest.mark.parametrize(("content", "path"), NOT_BUILT, ids=str)
def test_known_but_not_built_is_rejected_by_name(content, path):
    with pytest.raises(ConfigError) as caught:
        NNCFConfig.from_dict(content)
    assert str(caught.value).startswith(f"{path}: ")
    assert "known, not built yet" in str(caught.value)


def test_unified_scale_ops_are_only_known_for_activations():
    with pytest.raises(ConfigError, match="unknown key"):
        NNCFConfig.from_dict(quantization(weights={"unified_scale_ops": []}))


# NNCF's class


def test_from_dict_copies_deeply_and_validates():
    content = {"compression": [{"algorithm": "quantization", "weights": {"bits": 4}}]}
    config = NNCFConfig.from_dict(content)
    content["compression"][0]["weights"]["bits"] = 2
    assert config["compression"][0]["weights"]["bits"] == 4
    assert isinstance(copy.deepcopy(config), NNCFConfig)


def test_constructor_and_update_do_not_validate_but_reading_does():
    config = NNCFConfig({"compression": {"algorithm": "nothing"}})
    with pytest.raises(ConfigError):
        config.algorithms()
    config.update(quantization())
    assert len(config.algorithms()) == 1


def test_extra_structs():
    class Loader:
        pass

    config, struct = NNCFConfig(), Loader()
    assert not config.has_extra_struct(Loader)
    with pytest.raises(KeyError):
        config.get_extra_struct(Loader)
    config.register_extra_structs([struct])
    assert config.has_extra_struct(Loader)
    assert config.get_extra_struct(Loader) is struct
    assert list(config.get_all_extra_structs().values()) == [struct]
    with pytest.raises(ValueError, match="already has a Loader"):
        config.register_extra_structs([Loader()])


def test_redefinable_global_param():
    config = NNCFConfig(
        {"rate": 1, "compression": [{"algorithm": "quantization", "rate": 2}, {"algorithm": "magnitude_sparsity"}]}
    )
    assert config.get_redefinable_global_param_value_for_algo("rate", "quantization") == 2
    assert config.get_redefinable_global_param_value_for_algo("rate", "magnitude_sparsity") == 1
    assert config.get_redefinable_global_param_value_for_algo("other", "quantization") is None
    with pytest.raises(ConfigError, match="no entry for 'rb_sparsity'"):
        config.get_redefinable_global_param_value_for_algo("rate", "rb_sparsity")


# Schema, documentation, report


def section_classes():
    found, open_ = set(), [Section]
    while open_:
        found.add(section := open_.pop())
        open_ += section.__subclasses__()
    return sorted((s for s in found if s.__module__.startswith("nncf_ext.config.")), key=lambda section: section.__name__)


@pytest.mark.parametrize("section", section_classes(), ids=lambda section: section.__name__)
def test_every_section_and_field_is_documented_and_frozen(section):
    assert section.__doc__
    assert section.model_config["frozen"]
    for name, field in section.model_fields.items():
        assert field.description, name


def test_an_algorithm_adds_no_keys_to_its_section():
    by_name = {s.model_fields["algorithm"].default: s for s in section_classes() if "algorithm" in s.model_fields}
    assert by_name.keys() == ALGORITHMS.keys()
    for name, algorithm in ALGORITHMS.items():
        section = by_name[name]
        assert issubclass(algorithm, section)
        assert issubclass(algorithm, BaseModel)
        assert set(algorithm.model_fields) == set(section.model_fields)
        assert algorithm.model_fields["algorithm"].default == name


@pytest.mark.parametrize(
    "content",
    [
        quantization(bits=8),
        quantization(weights={"bits": 9}),
        quantization(weights={"bits": True}),
        quantization(ignored_scopes=3),
        sparsity(params={"schedule": "x", "sparsity_target": 0.5}),
        sparsity(params={"sparsity_target": 1}),
        distillation(),
        compression(type="mse"),
        {"target_device": "VPU"},
        {"input_info": [{}]},
    ],
    ids=str,
)
def test_the_json_schema_rejects_too(content):
    schema = NNCFConfig.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_validate_file_reports_what_will_happen(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        '{"input_info": {"sample_size": [1, 4]}, "epochs": 3, "compresion": [],'
        '"compression": [{"algorithm": "quantization", "weights": {"bits": 4}}]}'
    )
    assert validate_file(path).split("\n") == [
        f"{path}: valid",
        "  target device: ANY",
        "  input: [1, 4] float",
        "  quantization: weights.bits 4",
        "  epochs: left to the training script",
        "  compresion: left to the training script; did you mean 'compression'?",
    ]
    path.write_text("{}")
    assert "no compression" in validate_file(path)


@pytest.mark.parametrize("first", ["nncf_ext.algorithms", "nncf_ext.config.top_level", "nncf_ext.scopes", "nncf_ext.nncf_config"])
def test_reading_a_config_imports_nothing_heavy_in_any_order(first):
    code = (
        f"import sys, {first}; from nncf_ext import NNCFConfig; NNCFConfig.from_dict({quantization()!r});"
        "print([m for m in ('torch', 'tensorflow', 'keras', 'nncf', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


OLDER = [
    ({"target_device": "VPU"}, {"target_device": "NPU"}, "'VPU' is called 'NPU'"),
    ({"hw_config_type": "cpu"}, {"target_device": "CPU"}, "'hw_config_type' is called 'target_device'"),
    (
        sparsity(params={"sparsity_steps": 4, "sparsity_training_steps": 9}),
        sparsity(params={"sparsity_target_epoch": 4, "sparsity_freeze_epoch": 9}),
        "'sparsity_steps' is called 'sparsity_target_epoch' now",
    ),
    (
        sparsity(params={"schedule": "multistep", "steps": [2], "sparsity_levels": [0.1, 0.2]}),
        sparsity(params={"schedule": "multistep", "multistep_steps": [2], "multistep_sparsity_levels": [0.1, 0.2]}),
        "'sparsity_levels' is called 'multistep_sparsity_levels' now",
    ),
    (
        quantization(initializer={"batchnorm_adaptation": {"num_bn_forget_samples": 9}}),
        quantization(),
        "'num_bn_forget_samples' has no effect any more",
    ),
]


@pytest.mark.parametrize(("older", "todays", "sentence"), OLDER, ids=[sentence for *_, sentence in OLDER])
def test_older_spellings_are_taken_with_a_warning(older, todays, sentence):
    with pytest.warns(FutureWarning) as caught:
        config = NNCFConfig.from_dict(older)
        found = config.algorithms(), config.target_device
    assert any(sentence in str(warning.message) for warning in caught)
    expected = NNCFConfig.from_dict(todays)
    assert found == (expected.algorithms(), expected.target_device)


def test_a_key_in_both_spellings_is_refused():
    with pytest.raises(ConfigError, match="params.sparsity_steps: the older spelling of 'sparsity_target_epoch', which is given"):
        NNCFConfig.from_dict(sparsity(params={"sparsity_steps": 4, "sparsity_target_epoch": 4}))


@pytest.mark.parametrize(
    ("distribution", "said"),
    [
        ("erg", "compression.params.distribution: found \"erg\", expected one of uniform, erk; did you mean 'erk'?"),
        (3, "compression.params.distribution: found 3, expected one of uniform, erk"),
        ({"a": 2}, "compression.params.distribution.a: found 2, expected less than 1"),
    ],
)
@pytest.mark.parametrize("algorithm", ["dynamic_sparse_training", "iterative_magnitude"])
def test_a_key_of_several_kinds_is_told_by_its_path(algorithm, distribution, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        NNCFConfig.from_dict({"compression": {"algorithm": algorithm, "params": {"distribution": distribution}}})
