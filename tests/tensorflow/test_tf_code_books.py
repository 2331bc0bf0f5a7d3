"""Weights that share the values of a code book, in Keras: weighting, zeros, the whole chain in `fit` to a packed file."""

import keras
import numpy as np
import onnxruntime
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import ConfigError, NNCFConfig, packed
from tests import weighting_toy


def compressed(model, compression, data=None, **criterion):
    config = NNCFConfig.from_dict({"compression": compression})
    if data is not None:
        register_default_init_args(config, data, 2, **criterion)
    return create_compressed_model(model, config)


def clustering(**params):
    return {"algorithm": "weight_clustering", "params": params}


def toy():
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False, name="fc")])
    model.layers[0].kernel.assign(weighting_toy.WEIGHTS[:, None])
    return model


def centroids(ctrl):
    return ctrl.variable_values(next(iter(ctrl.plan)))["centroids"]


TOY_DATA = [(weighting_toy.INPUTS[i : i + 2], weighting_toy.TARGETS[i : i + 2]) for i in range(0, 8, 2)]


@pytest.mark.parametrize("weighting", ["squared_gradients", "hutchinson"])
def test_weighting_by_the_hessian(weighting):
    loss = keras.losses.MeanSquaredError()
    ctrl, _ = compressed(toy(), clustering(clusters=1, weighting=weighting), TOY_DATA, criterion=loss)
    assert centroids(ctrl) == pytest.approx([weighting_toy.mean_weighted_by_the_hessian()], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop"])
def test_weighting_by_the_optimizers_second_moment(optimizer):
    ctrl, model = compressed(toy(), clustering(clusters=1, weighting="adam", start_epoch=1))
    model.compile(getattr(keras.optimizers, optimizer)(0.01), "mse")
    ctrl.scheduler.epoch_step()
    model.fit(weighting_toy.INPUTS, weighting_toy.TARGETS, batch_size=8, verbose=0)
    raw = ctrl._attached.parameter(next(iter(ctrl.plan)).site).numpy().ravel()
    ctrl.scheduler.epoch_step()
    assert centroids(ctrl) == pytest.approx([weighting_toy.mean_weighted_by_the_first_step_of_adam(raw)], rel=1e-4)


def test_no_optimizer_with_second_moments():
    ctrl, model = compressed(toy(), clustering(weighting="adam", start_epoch=1))
    model.compile("sgd", "mse")
    ctrl.scheduler.epoch_step()
    model.fit(weighting_toy.INPUTS, weighting_toy.TARGETS, batch_size=8, verbose=0)
    with pytest.raises(ConfigError, match="found no optimizer that keeps second moments of .*, expected Adam"):
        ctrl.scheduler.epoch_step()


@pytest.mark.parametrize(
    "entry",
    [clustering(clusters=5, start_epoch=1), {"algorithm": "ecsq", "params": {"target_bits": 2, "start_epoch": 1}}],
)
def test_chain_in_fit_to_a_packed_file_that_runs(entry, tmp_path):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
    layers = [keras.layers.Dense(16, "relu", name="a"), keras.layers.Dense(3, name="b")]
    sparse = {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5, "params": {"sparsity_target": 0.5}}
    ctrl, model = compressed(keras.Sequential([keras.Input((6,)), *layers]), [sparse, entry])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=3, verbose=0, callbacks=create_compression_callbacks(ctrl, log_text=False))
    assert ctrl.statistics().reports[entry["algorithm"]].coded
    kernel = ctrl._adapter.tensors(ctrl.strip(quantizers=False))["a/kernel"]
    assert 2 <= np.unique(kernel).size <= 12
    assert np.count_nonzero(kernel == 0) >= 30
    ctrl.export_model(tmp_path / "model.onnx")
    packed.pack_file(tmp_path / "model.onnx", tmp_path / "onnx.ncp")
    packed.unpack_file(tmp_path / "onnx.ncp", tmp_path / "again.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "again.onnx"), providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(answers, model.predict(x, verbose=0), atol=1e-5)
    ctrl.pack(tmp_path / "model.ncp")
    np.testing.assert_array_equal(packed.load(tmp_path / "model.ncp")["a/kernel"], kernel)
