"""Filter pruning of networks with BatchNorm, branches and depthwise convolutions, in Keras."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args
from nncf_ext_tensorflow.demo import digits_net

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.tools import demo
from tests.keras_training import compile_model

EVERYTHING = {"prune_first_conv": True, "prune_downsample_convs": True}


@pytest.fixture(scope="module")
def batches():
    data = demo.load_digits()
    images, labels = data.train_images[:192, ..., None], data.train_labels[:192]
    return [(images[i : i + 32], labels[i : i + 32]) for i in range(0, 192, 32)]


def small(size=8):
    """A residual block, a depthwise convolution, and a head."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 1))
    x = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(16, 3, padding="same", name="stem")(inputs)))
    y = L.BatchNormalization(name="inner_bn")(L.Conv2D(24, 3, padding="same", use_bias=False, name="inner")(x))
    y = L.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(y)
    x = L.Add()([x, L.Conv2D(16, 1, name="outer")(y)])
    return keras.Model(inputs, L.Dense(10, name="head")(L.GlobalAveragePooling2D()(x)))


def pruned(batches, model=None, init=0.0, scopes=None, more=(), **params):
    entry = {"algorithm": "filter_pruning", "pruning_init": init, "params": params, **(scopes or {})}
    config = NNCFConfig.from_dict({"compression": [entry, *more]})
    return create_compressed_model(small() if model is None else model, register_default_init_args(config, batches, 32))


def train(ctrl, model, batches, epochs=1):
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_model(model, keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-3), loss)
    callbacks = create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    model.fit(x, y, batch_size=32, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0)


def of_layers(ctrl):
    return {layer.name: layer.pruned_level for layer in ctrl.statistics().filter_pruning.layers}


def test_layers_that_are_added_lose_the_same_filters_and_depthwise_ones_follow(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=2, **EVERYTHING)
    train(ctrl, model, batches, 2)
    assert of_layers(ctrl) == pytest.approx({"stem": 0.5, "inner": 1 - 16 / 24, "depthwise": 1 - 16 / 24, "outer": 0.5})
    masks = {edit.site.node: ctrl.variable_values(edit)["mask"].reshape(-1) for edit in ctrl.plan}
    assert (masks["stem"] == masks["outer"]).all() and (masks["stem"] == masks["bn"]).all()
    assert (masks["inner"] == masks["depthwise"]).all()
    assert not any(edit.site.slot in ("mean", "variance") for edit in ctrl.plan)  # what was measured is no weight
    stripped = ctrl.strip()
    x = batches[0][0]
    np.testing.assert_allclose(stripped(x, training=False), model(x, training=False), rtol=1e-4, atol=1e-4)


def test_flops_are_those_of_the_smaller_model(batches):
    """8 of 16 and 16 of 24 channels are left; per sample 8 x 8 pixels, and 2 operations a weight."""
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=1, **EVERYTHING)
    train(ctrl, model, batches)
    report = ctrl.statistics().filter_pruning
    weights = 9 * 8 + 8 * 16 * 9 + 16 * 9 + 16 * 8
    assert report.current_flops == ctrl.current_flops == 2 * (64 * weights + 8 * 10)
    assert report.full_flops == ctrl.full_flops == 2 * (64 * (9 * 16 + 16 * 24 * 9 + 24 * 9 + 24 * 16) + 160)
    assert report.current_params_num == weights + 8 * 10 + (8 + 16 + 16 + 32 + 8 + 10)
    assert report.full_params_num == sum(int(np.prod(variable.shape)) for variable in small().trainable_variables)


def test_the_stripped_model_is_smaller_and_computes_the_same(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=1, all_weights=True, **EVERYTHING)
    train(ctrl, model, batches)
    x = batches[0][0]
    expected = model(x, training=False)
    smaller = ctrl.strip()
    np.testing.assert_allclose(smaller(x, training=False), expected, rtol=1e-4, atol=1e-4)
    size = sum(int(np.prod(variable.shape)) for variable in smaller.trainable_variables)
    assert size == ctrl.statistics().filter_pruning.current_params_num


def test_batch_norms_that_are_not_pruned_keep_their_shift(batches):
    ctrl, model = pruned(batches, pruning_target=0.5, pruning_steps=1, prune_batch_norms=False, **EVERYTHING)
    train(ctrl, model, batches)
    assert not {edit.site.node for edit in ctrl.plan} & {"bn", "inner_bn"}
    stripped = ctrl.strip()
    assert stripped.get_layer("inner").kernel.shape == (3, 3, 16, 24)
    np.testing.assert_allclose(stripped(batches[0][0]), model(batches[0][0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("scopes", "params", "words"),
    [
        ({"target_scopes": "head"}, EVERYTHING, "target_scopes: head cannot be pruned: its channels have to stay"),
        ({"target_scopes": "stem"}, {}, "stem cannot be pruned: is a first convolution, and prune_first_conv is false"),
        ({"target_scopes": "stem"}, EVERYTHING, "stem cannot be pruned: is coupled with outer, which is not in target_scopes"),
        ({}, {"pruning_flops_target": 0.9, **EVERYTHING}, r"flops_target: found 0.9, expected at most 0.\d+: the rest is in"),
    ],
)
def test_mistakes(batches, scopes, params, words):
    model = small()
    with pytest.raises(ConfigError, match=words):
        pruned(batches, model, scopes=scopes, **params)
    assert type(model.get_layer("stem")) is L.Conv2D


def test_operations_of_images_of_any_size_cannot_be_counted(batches):
    with pytest.raises(ConfigError, match="the outputs of stem have no fixed size, .* expected a model with fixed input sizes"):
        pruned(batches, small(None), pruning_flops_target=0.3, **EVERYTHING)


def test_strided_convolutions_are_left_alone(batches):
    ctrl, _ = pruned(batches, digits_net(), pruning_target=0.3)
    reasons = [reason for _, reason in ctrl.plan.skipped]
    assert "has a stride, and prune_downsample_convs is false" in reasons
    assert any(reason.startswith("is coupled with ") for reason in reasons)


@pytest.mark.parametrize("all_weights", [False, True])
def test_a_flops_target_is_met(batches, all_weights):
    ctrl, model = pruned(batches, pruning_flops_target=0.5, pruning_steps=1, all_weights=all_weights, **EVERYTHING)
    train(ctrl, model, batches)
    assert ctrl.current_flops <= 0.5 * ctrl.full_flops
    ctrl.compression_rate = 0.25
    assert 0.25 <= ctrl.compression_rate < 0.5


def test_resuming_takes_the_same_steps(batches, tmp_path):
    settings = {"pruning_target": 0.6, "pruning_steps": 3, "all_weights": True, **EVERYTHING}
    ctrl, model = pruned(batches, init=0.2, **settings)
    train(ctrl, model, batches)
    ctrl.save_checkpoint(tmp_path / "one.safetensors")
    state = json.loads(json.dumps(ctrl.get_compression_state()))
    train(ctrl, model, batches, 2)
    entry = {"algorithm": "filter_pruning", "pruning_init": 0.2, "params": settings}
    other, resumed = create_compressed_model(small(), NNCFConfig.from_dict({"compression": entry}), state)
    other.load_checkpoint(tmp_path / "one.safetensors")
    train(other, resumed, batches, 2)
    for mine, theirs in zip(model.get_weights(), resumed.get_weights(), strict=True):
        assert (mine == theirs).all()


def test_with_quantization_sparsity_and_a_teacher(batches, tmp_path):
    int8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}
    sparse = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.3, "params": {"sparsity_target": 0.3}}
    teacher = {"algorithm": "knowledge_distillation", "type": "softmax"}
    ctrl, model = pruned(batches, more=(int8, sparse, teacher), pruning_target=0.5, pruning_steps=1, **EVERYTHING)
    train(ctrl, model, batches)
    assert ctrl.strip().get_layer("stem").kernel.shape == (3, 3, 1, 8)
    assert ctrl.export_model(tmp_path / "pruned.onnx").lsb < 3


def test_the_search_for_a_ranking_leaves_the_model_as_it_was(batches, tmp_path):
    starts, losses = [], iter([3.0, 2.0, 1.0, 4.0])

    def train_steps(loader, model, optimizer, controller, steps):
        starts.append([variable.numpy() for variable in model.trainable_variables])
        for (x, y), _ in zip(loader, range(steps), strict=False):
            controller.scheduler.step()
            with tf.GradientTape() as tape:
                found = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True), from_logits=True)
                loss = keras.ops.mean(found) + controller.loss()
            optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))

    model, file = small(), tmp_path / "ranking.json"
    before = model.get_weights()
    search = {"generations": 4, "population_size": 2, "train_steps": 2, "max_pruning": 0.5}
    params = {"interlayer_ranking_type": "learned_ranking", "legr_params": search, "save_ranking_coeffs_path": str(file)}
    no_adaptation = {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}
    entry = {"algorithm": "filter_pruning", "initializer": no_adaptation, "params": params}
    config = NNCFConfig.from_dict({"compression": entry})
    register_default_init_args(
        config, batches, 32, train_steps_fn=train_steps, validate_fn=lambda model, data: (0.5, next(losses)), val_loader=batches
    )
    ctrl, model = create_compressed_model(model, config)
    assert len(starts) == 4
    for start in starts:
        assert all((a == b).all() for a, b in zip(start, starts[0], strict=True))
    assert all((ctrl.variable_values(edit)["mask"] == 1).all() for edit in ctrl.plan)
    with pytest.warns(UserWarning, match="found 0.0% of the filters pruned, expected 50.0% from epoch"):
        stripped = ctrl.strip()
    assert all((a == b).all() for a, b in zip(stripped.get_weights(), before, strict=True))
    assert set(json.loads(file.read_text())) == {"stem", "inner", "outer"}

    optimizer = keras.optimizers.SGD()
    with pytest.raises(ConfigError, match="legr_train_optimizer: found a SGD, expected a function that makes one"):
        register_default_init_args(
            config, batches, 32, train_steps_fn=print, validate_fn=print, val_loader=batches, legr_train_optimizer=optimizer
        )


def test_heads_and_ffn_channels_of_a_transformer():
    """Of 8 heads 2 go, of 96 FFN channels 24."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7, 64))
    y = L.LayerNormalization()(inputs)
    x = L.Add()([inputs, L.MultiHeadAttention(8, 16, name="attention")(y, y)])
    y = L.Dense(96, activation="gelu", name="up")(L.LayerNormalization()(x))
    model = keras.Model(inputs, L.Dense(5, name="head")(L.Add()([x, L.Dense(64, name="down")(y)])))
    entry = {"algorithm": "filter_pruning", "pruning_init": 0.25, "params": {"pruning_target": 0.25}}
    ctrl, model = create_compressed_model(model, NNCFConfig.from_dict({"compression": entry}))
    heads = {f"attention/{name}": 0.25 for name in ("query", "key", "value")}
    assert of_layers(ctrl) == {**heads, "up": 0.25}
    assert ctrl.statistics().filter_pruning.current_filters_num == 3 * 96 + 64 + 72 + 64 + 5
    assert ctrl.current_flops == 2 * 7 * (4 * 64 * 96 + 2 * 64 * 72 + 64 * 5)
    x = np.random.default_rng(0).normal(size=(2, 7, 64)).astype(np.float32)
    expected = model(x, training=False)
    smaller = ctrl.strip()
    assert smaller.get_layer("attention").query_dense.kernel.shape == (64, 6, 16)
    np.testing.assert_allclose(smaller(x, training=False), expected, rtol=1e-4, atol=1e-4)
