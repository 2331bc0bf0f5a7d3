"""Movement sparsity of a transformer in Keras: MultiHeadAttention by heads, Dense layers by channels, in `fit`."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks

from nncf_ext import NNCFConfig
from tests.keras_training import compile_model

LENGTH, WIDTH, HEADS, CHANNELS, CLASSES = 8, 16, 4, 24, 3


def transformer() -> keras.Model:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(32, WIDTH, name="embedding")(tokens)
    attended = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention")(x, x)
    x = keras.layers.LayerNormalization(name="norm")(x + attended)
    hidden = keras.layers.Dense(CHANNELS, activation="gelu", name="up")(x)
    x = keras.layers.LayerNormalization(name="last_norm")(x + keras.layers.Dense(WIDTH, name="down")(hidden))
    return keras.Model(tokens, keras.layers.Dense(CLASSES, name="head")(x[:, 0]))


def config(**params) -> NNCFConfig:
    return NNCFConfig.from_dict(
        {
            "compression": {
                "algorithm": "movement_sparsity",
                "params": {
                    "warmup_start_epoch": 1,
                    "warmup_end_epoch": 4,
                    "importance_regularization_factor": 1.0,
                    **params,
                },
                "sparse_structure_by_scopes": [
                    {"mode": "block", "sparse_factors": [4, 4], "target_scopes": "{re}^attention"},
                    {"mode": "per_dim", "axis": 0, "target_scopes": "up"},
                    {"mode": "per_dim", "axis": 1, "target_scopes": "down"},
                ],
                "ignored_scopes": ["embedding", "head"],
            }
        }
    )


@pytest.fixture(scope="module")
def data():
    """Sequences of 32 tokens, and how many of them are above 15, in three classes."""
    tokens = np.random.default_rng(0).integers(0, 32, (256, LENGTH)).astype("int32")
    return tokens, np.digitize((tokens > 15).sum(-1), [4, 5])


def test_heads_and_channels_go_in_fit(data):
    ctrl, model = create_compressed_model(transformer(), config())
    shapes = {str(edit.site): (edit.transform.shape, edit.transform.block) for edit in ctrl.plan}
    assert shapes == {
        **{f"attention/{name}|weight": ((16, 16), (4, 4)) for name in ("query", "key", "value", "attention_output")},
        **{f"attention/{name}|bias": ((16,), (4,)) for name in ("query", "key", "value", "attention_output")},
        "up|weight": ((16, 24), (16, 1)),
        "up|bias": ((24,), (1,)),
        "down|weight": ((24, 16), (1, 16)),
        "down|bias": ((16,), (16,)),
    }
    compile_model(model, keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    rates = []
    callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(ctrl.compression_rate)))
    model.fit(*data, batch_size=32, epochs=6, callbacks=callbacks, verbose=0)

    assert rates[0] == 0 and rates[3] > 0.1
    assert 0 < rates[4] == rates[5] <= rates[3]  # in kept heads and channels, what was pruned is back; then nothing changes
    groups = {group.units: group for group in ctrl.statistics().movement_sparsity.structured}
    assert set(groups) == {HEADS, CHANNELS} and groups[CHANNELS].kept < CHANNELS
    assert ctrl.compression_stage().name == "FULLY_COMPRESSED"

    stripped = ctrl.strip()
    heads, channels = max(groups[HEADS].kept, 1), groups[CHANNELS].kept
    assert stripped.get_layer("up").kernel.shape == (WIDTH, channels)
    assert stripped.get_layer("down").kernel.shape == (channels, WIDTH)
    assert stripped.get_layer("attention").query_dense.kernel.shape == (WIDTH, heads, WIDTH // HEADS)
    tokens = data[0][:4]
    expected, found = (keras.ops.convert_to_numpy(m(tokens, training=False)) for m in (model, stripped))
    np.testing.assert_allclose(found, expected, atol=1e-5)
