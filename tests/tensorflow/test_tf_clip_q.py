"""clip_q in Keras: large and half-precision weights in graphs, weights that come back in `fit`, the file of the end."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, xp

from nncf_ext import NNCFConfig, packed
from nncf_ext.algorithms.clip_q import ClipQ
from tests.contract.references.clip_q import clipped


def compressed(layers, **params):
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input((6,)), *layers()])
    return create_compressed_model(model, NNCFConfig.from_dict({"compression": {"algorithm": "clip_q", "params": params}}))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_large_weight_is_as_in_numpy(dtype):
    x = tf.cast(np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32) * 0.02, dtype)
    transform, on = ClipQ(pruning=0.7, bits=4), tf.ones(())
    y = tf.function(lambda x: transform.apply(xp, x, {"begun": on}, True), autograph=False)(x)
    assert y.dtype == dtype
    expected = tf.cast(clipped(tf.cast(x, tf.float32).numpy(), 0.7, 4), dtype)
    rtol = 1e-6 if dtype == "float32" else 0
    np.testing.assert_allclose(tf.cast(y, tf.float32), tf.cast(expected, tf.float32), rtol=rtol, atol=0)


def test_sums_by_segment():
    x, segments = tf.constant([1e-3, 1e6, -1e6, 0.25, 1e-3]), tf.constant([2, 0, 0, 2, 3])
    assert xp.segment_sum(x, segments, 5).numpy().tolist() == pytest.approx([0, 0, 0.251, 1e-3, 0])
    assert xp.segment_sum(tf.range(5), segments, 4).numpy().tolist() == [3, 0, 3, 4]


def test_a_weight_comes_back():
    """A gradient that pushes a zero weight over the threshold makes it alive in the next forward."""
    ctrl, model = compressed(lambda: [keras.layers.Dense(1, use_bias=False)], pruning=0.5, bits=3)
    raw = ctrl._attached.parameter(next(iter(ctrl.plan)).site)
    raw.assign(np.array([[0.1], [0.2], [0.3], [0.4], [0.5], [0.6]]))
    model.compile(keras.optimizers.SGD(1.0), lambda y, out: -0.35 * tf.reduce_sum(out), jit_compile=False)
    ones = np.eye(6, dtype=np.float32)
    assert model.predict(ones, verbose=0).ravel() == pytest.approx([0, 0, 0, 0.4, 0.5, 0.6])
    model.fit(ones[:1], np.zeros((1, 1)), verbose=0, callbacks=create_compression_callbacks(ctrl))
    assert model.predict(ones, verbose=0).ravel() == pytest.approx([0.45, 0, 0, 0, 0.5, 0.6])


def test_from_an_epoch_on_to_a_file(tmp_path):
    keras.utils.set_random_seed(0)
    ctrl, model = compressed(
        lambda: [keras.layers.Dense(64, "relu"), keras.layers.Dense(3, name="last")],
        pruning=0.75,
        bits=3,
        start_epoch=1,
        by_scope={"{re}last": {"pruning": 0.5, "bits": 2}},
    )
    x = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    model.compile("sgd", "mse", jit_compile=False)
    callbacks = create_compression_callbacks(ctrl)
    model.fit(x, np.zeros((32, 3)), verbose=0, callbacks=callbacks)
    with pytest.warns(UserWarning, match="clip_q has not reached its target: found it not begun, expected from epoch 1 on"):
        assert len(np.unique(ctrl.strip().layers[0].kernel)) > 300
    assert ctrl.statistics().clip_q.layers == ()
    model.fit(x, np.zeros((32, 3)), verbose=0, callbacks=callbacks, initial_epoch=1, epochs=2)
    first, second = ctrl.statistics().clip_q.layers
    assert (first.pruning, first.bits, second.pruning, second.bits) == (0.75, 3, 0.5, 2)
    assert first.sparsity == pytest.approx(0.75, abs=2 / 384) and 3 < first.values < 8 and second.values <= 3
    ctrl.export_model(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(answers, model.predict(x, verbose=0), atol=1e-5)
    ctrl.pack(tmp_path / "model.ncp")
    kernel = next(array for array in packed.load(tmp_path / "model.ncp").values() if array.shape == (6, 64))
    np.testing.assert_array_equal(kernel, ctrl.strip().layers[0].kernel)
    assert len(np.unique(kernel[kernel != 0])) == first.values
