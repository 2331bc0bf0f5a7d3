"""A model with two inputs and two sums: which of its tensors are quantized, with how many ranges, and what the file computes."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 8, 8, 3)).astype("float32")
DEPTHS = (3 * RNG.uniform(size=(8, 8, 8, 1))).astype("float32")


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    image, depth = keras.Input((8, 8, 3), name="image"), keras.Input((8, 8, 1), name="depth")
    x = L.Add(name="sum1")([L.Conv2D(4, 3, name="left")(image), L.Conv2D(4, 3, name="right")(depth)])
    x = L.Add(name="sum2")([L.Conv2D(4, 3, padding="same", name="inner")(x), x])
    return keras.Model([image, depth], L.Dense(2, name="head")(L.GlobalAveragePooling2D(name="pool")(x)))


def compressed(**keys: Any) -> Any:
    entry = {"algorithm": "quantization", "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}, **keys}
    data = [((IMAGES[:4], DEPTHS[:4]), np.zeros(4)), ((IMAGES[4:], DEPTHS[4:]), np.zeros(4))]
    config = register_default_init_args(NNCFConfig.from_dict({"compression": entry}), data, 4)
    return create_compressed_model(net(), config)[0]


def activations(ctrl: Any) -> set[str]:
    return {str(edit.site) for edit in ctrl.plan if not edit.site.is_parameter}


def test_inputs_and_outputs(tmp_path) -> None:
    ctrl = compressed()
    inputs = {"/nncf_model_input_0|output", "/nncf_model_input_1|output"}
    assert inputs <= activations(ctrl)
    by_site = {
        str(edit.site): ctrl.variable_values(edit)["scale"].item() for edit in ctrl.plan if edit.transform.channel_axis is None
    }
    assert by_site["/nncf_model_input_1|output"] == pytest.approx(3, rel=0.05)  # each input has a range of its own
    assert ctrl.export_model(tmp_path / "model.onnx").lsb <= 1
    assert activations(compressed(quantize_inputs=False)) == activations(ctrl) - inputs
    with_outputs = compressed(quantize_outputs=True)
    assert activations(with_outputs) - activations(ctrl) == {"head|output"}
    assert with_outputs.export_model(tmp_path / "outputs.onnx").lsb <= 1
    assert inputs & activations(compressed(ignored_scopes=["/nncf_model_input_1"])) == {"/nncf_model_input_0|output"}


def test_one_range_for_both_sums(tmp_path) -> None:
    ctrl = compressed(activations={"unified_scale_ops": [["sum1", "sum2"]]})
    (shared,) = [edit for edit in ctrl.plan if len(edit.sites) > 1]
    assert set(shared.operators) >= {"sum1", "sum2"}
    assert ctrl.variable_values(shared)["scale"].size == 1
    assert ctrl.export_model(tmp_path / "model.onnx").lsb <= 1
    ctrl.model.compile("sgd", "mse")
    before = ctrl.variable_values(shared)["scale"].copy()
    ctrl.model.fit([IMAGES, DEPTHS], np.ones((8, 2), np.float32), verbose=0)
    assert (ctrl.variable_values(shared)["scale"] != before).all()
