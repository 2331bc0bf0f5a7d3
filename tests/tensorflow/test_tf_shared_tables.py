"""Embedding tables behind one quantizer, as the features of a recommender are: each keeps its own values, in the range of all."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("widths, with_numbers", [((8, 8), False), ((8, 4), False), ((4, 2), True)])
def test_tables_of_concatenated_features(tmp_path, widths, with_numbers):
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((1,), dtype="int32", name=name) for name in ("user", "item")]
    sizes = (20, 30)
    parts = [
        L.Flatten()(L.Embedding(n, w, embeddings_initializer=keras.initializers.RandomNormal(stddev=s))(x))
        for n, w, s, x in zip(sizes, widths, (1.0, 3.0), inputs, strict=True)
    ]
    batch = [RNG.integers(0, n, (8, 1)).astype("int32") for n in sizes]
    if with_numbers:
        inputs, batch = [*inputs, keras.Input((3,), name="numbers")], [*batch, RNG.normal(size=(8, 3)).astype("float32")]
        parts.append(inputs[-1])
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()(parts)))
    tables = [layer.embeddings.numpy() for layer in model.layers if isinstance(layer, L.Embedding)]
    config = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
    ctrl, model = create_compressed_model(model, register_default_init_args(config, [(tuple(batch), np.zeros(8))], 8))
    shared = next(edit for edit in ctrl.plan if len(edit.sites) > 1)
    assert float(ctrl.variable_values(shared)["scale"].item()) >= max(np.abs(table).max() for table in tables) - 1e-6
    report = ctrl.export_model(tmp_path / "model.onnx")
    assert report.unoptimized < 2 * report.step and report.exact
    scale = float(ctrl.variable_values(shared)["scale"].item())
    stripped = ctrl.strip()
    for layer, table in zip([x for x in stripped.layers if isinstance(x, L.Embedding)], tables, strict=True):
        assert np.abs(layer.embeddings.numpy() - table).max() <= scale / 64  # half a step of 7 or 8 bits
