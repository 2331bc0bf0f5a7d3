"""Distillation in Keras: sequences with padding, weights of the losses in `fit`, teachers that do not fit."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.distillation.losses import ValidPositions, divergence
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.export.parity import run, session

L = keras.layers
TOKENS = np.array([[3, 1, 4, 0, 0], [2, 7, 1, 8, 0]])


def tagger(seed: int, classes: int = 3):
    """A score for each of three classes, at every token."""
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    return keras.Model(tokens, L.Dense(classes, name="head")(L.Embedding(9, 4)(tokens)))


def config(**keys):
    return NNCFConfig.from_dict(
        {"compression": {"algorithm": "knowledge_distillation", "type": "kl", "temperature": 2.0, **keys}}
    )


@pytest.mark.parametrize("by", ["input", "function"])
def test_padding_does_not_count_in_fit(by):
    settings = config(task_weight=0.25, **({"padding": {"input": "tokens"}} if by == "input" else {}))
    if by == "function":
        settings.register_extra_structs([ValidPositions(lambda inputs, outputs: inputs["tokens"] > 0)])
    ctrl, model = create_compressed_model(tagger(0), settings, teacher=tagger(1))
    teacher, labels, valid = tagger(1), np.ones((2, 5, 3), np.float32), TOKENS > 0
    student = model.predict(TOKENS, verbose=0)
    task = float(np.mean((student - labels) ** 2))
    of_tokens = float(divergence(xp, student[valid], teacher.predict(TOKENS, verbose=0)[valid], 2.0))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(TOKENS, labels, batch_size=2, verbose=0)
    assert history.history["loss"] == pytest.approx([0.25 * task + 0.75 * of_tokens], rel=1e-5)
    evaluated = model.evaluate(TOKENS, labels, verbose=0)
    assert evaluated == pytest.approx(float(np.mean((model.predict(TOKENS, verbose=0) - labels) ** 2)), rel=1e-5)
    assert ctrl.task_weight == 0.25


def test_an_input_that_does_not_exist():
    ctrl, model = create_compressed_model(tagger(0), config(padding={"input": "mask"}), teacher=tagger(1))
    model(TOKENS, training=True)
    with pytest.raises(ConfigError, match="padding.input: the model has no input 'mask', expected one of tokens"):
        ctrl.loss()


def test_a_teacher_that_does_not_fit_is_an_error_before_training():
    words = r"teacher: output 0 of the model has shape \(1, 5, 3\), output 0 of the teacher \(1, 5, 4\); expected the same"
    model = tagger(0)
    with pytest.raises(ConfigError, match=words):
        create_compressed_model(model, config(), teacher=tagger(1, classes=4))
    assert type(model) is keras.Model or type(model).__name__ == "Functional"
    ctrl, _ = create_compressed_model(model, config())
    with pytest.raises(ConfigError, match=words):
        ctrl.set_teacher(tagger(1, classes=4))


def test_another_teacher_takes_the_place_of_the_first():
    ctrl, model = create_compressed_model(tagger(0), config(task_weight=0))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    labels = np.zeros((2, 5, 3), np.float32)
    assert model.fit(TOKENS, labels, verbose=0).history["loss"] == pytest.approx([0], abs=1e-6)  # a model is its own teacher
    ctrl.set_teacher(tagger(1))
    assert model.fit(TOKENS, labels, verbose=0).history["loss"][0] > 1e-4


def images(seed: int, width: int):
    keras.utils.set_random_seed(seed)
    x = keras.Input((9, 9, 1))
    y = L.ReLU(name="relu")(L.Conv2D(width, 3, 2, name="conv")(x))
    return keras.Model(x, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(y)))


def test_features_are_learned_from_a_wider_teacher_in_fit(tmp_path):
    teacher = images(1, 8)
    before = teacher.get_weights()
    settings = config(task_weight=0, features=[{"student": "{re}relu", "weight": 5.0}])
    ctrl, model = create_compressed_model(images(0, 4), settings, teacher=teacher)
    (edit,) = ctrl.plan
    start = ctrl.variable_values(edit)["projection"]
    assert start.shape == (4, 8)
    x = np.random.default_rng(0).normal(size=(16, 9, 9, 1)).astype(np.float32)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(x, np.zeros((16, 3)), batch_size=16, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert (ctrl.variable_values(edit)["projection"] != start).any()
    assert all((a == b).all() for a, b in zip(teacher.get_weights(), before, strict=True))
    assert type(teacher.get_layer("relu")) is L.ReLU
    model(x, training=True)
    assert set(ctrl.loss_terms()) == {"knowledge_distillation.outputs", "knowledge_distillation.features"}

    ctrl.save_checkpoint(tmp_path / "c.safetensors")
    again, _ = create_compressed_model(images(3, 4), settings, ctrl.get_compression_state(), teacher=teacher)
    again.load_checkpoint(tmp_path / "c.safetensors")
    assert (again.variable_values(again.plan.edits[0])["projection"] == ctrl.variable_values(edit)["projection"]).all()
    plain = ctrl.strip()
    assert len(plain.weights) == 4
    np.testing.assert_array_equal(plain(x), model(x))
    ctrl.export_model(tmp_path / "m.onnx")
    np.testing.assert_allclose(run(session(tmp_path / "m.onnx"), [x])[0], plain(x), atol=1e-5)


def test_attention_and_mistakes():
    pair = {"student": "{re}relu", "loss": "attention"}
    ctrl, model = create_compressed_model(images(0, 4), config(features=[pair]), teacher=images(1, 8))
    model(np.random.default_rng(0).normal(size=(2, 9, 9, 1)).astype(np.float32), training=True)
    assert 0 < float(ctrl.loss_terms()["knowledge_distillation.features"]) < 2
    with pytest.raises(ConfigError, match=r"features\[0\].teacher: \"{re}relx\" matches no node"):
        create_compressed_model(images(0, 4), config(features=[{**pair, "teacher": "{re}relx"}]), teacher=images(1, 8))


def test_cached_answers_train_as_the_teacher_does_in_fit(tmp_path):
    """`fit` shuffles, and makes batches of other sizes than the cache was written with."""
    tokens, labels = np.random.default_rng(0).integers(0, 9, (12, 5)), np.zeros((12, 5, 3), np.float32)
    settings = config(task_weight=0.1, padding={"input": "tokens"})
    ctrl, _ = create_compressed_model(tagger(0), settings, teacher=tagger(1))
    ctrl.cache_teacher(tmp_path / "t.safetensors", [tokens[:4], tokens[4:]], top_k=3)
    weights = []
    for teacher in (tagger(1), TeacherCache(tmp_path / "t.safetensors")):
        _, model = create_compressed_model(tagger(0), settings, teacher=teacher)
        model.compile(keras.optimizers.SGD(0.5), "mse")
        keras.utils.set_random_seed(4)
        model.fit(tokens, labels, batch_size=5, epochs=2, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_features_beside_quantizers_are_not_exported(tmp_path):
    entries = [
        {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 4}}},
        {"algorithm": "knowledge_distillation", "type": "kl", "features": [{"student": "{re}relu"}]},
    ]
    x = np.random.default_rng(0).normal(size=(4, 9, 9, 1)).astype(np.float32)
    settings = register_default_init_args(NNCFConfig.from_dict({"compression": entries}), [(x, None)], 4)
    ctrl, model = create_compressed_model(images(0, 16), settings, teacher=images(1, 8))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(x, np.zeros((4, 3)), verbose=0)
    assert ctrl.export_model(tmp_path / "m.onnx").lsb < 3
