"""Models that compute in half precision: transforms work in float32, training is scaled, files are float32."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers as L
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args

from nncf_ext import NNCFConfig

X = np.random.default_rng(0).random((16, 8, 8, 3)).astype("float32")
INT8 = {"algorithm": "quantization", "initializer": {"range": {"type": "min_max", "num_init_samples": 16}}}
RIGL = {
    "algorithm": "dynamic_sparse_training",
    "params": {"method": "rigl", "sparsity_target": 0.5, "update_interval": 2, "end": 8},
}


@pytest.mark.filterwarnings("ignore:.*statistics do not fit")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_attach_train_strip_and_export(policy, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    norm = L.Normalization(mean=0.5, variance=0.1, dtype=policy)
    x = L.Conv2D(4, 3, dtype=policy)(norm(inputs))
    x = L.ReLU(dtype=policy)(L.BatchNormalization(dtype=policy)(x))
    model = keras.Model(inputs, L.Dense(3, dtype="float32")(L.Flatten(dtype=policy)(x)))
    data = tf.data.Dataset.from_tensor_slices((X, np.ones((16, 3), "float32"))).batch(8)
    config = register_default_init_args(NNCFConfig.from_dict({"compression": [INT8, RIGL]}), data, 8)
    controller, model = create_compressed_model(model, config)
    model.compile(keras.optimizers.Adam(1e-2), "mse", auto_scale_loss=True)
    history = model.fit(
        data, epochs=6, verbose=0, shuffle=False, callbacks=create_compression_callbacks(controller, log_text=False)
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert controller.statistics().dynamic_sparse_training.sparsity_level == pytest.approx(0.5, abs=0.03)
    assert {variable.dtype for variable in model.variables if "float" in variable.dtype} == {"float32"}
    report = controller.export_model(tmp_path / "a.onnx")
    assert report.exact and report.lsb < 2  # beside the model in float32
    types = {value.data_type for value in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert not types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    assert model.layers[2].compute_dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(controller.strip()(X), model(X), rtol=0.1, atol=0.1)  # without the quantizers of activations
