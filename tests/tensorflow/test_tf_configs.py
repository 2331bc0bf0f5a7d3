"""Every file in `configs/` but those for transformers compresses the demo's network, and one optimizer step of it trains."""

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args
from nncf_ext_tensorflow.demo import digits_net

from nncf_ext import NNCFConfig
from nncf_ext.tools import demo
from tests.configs import FOR_IMAGES, shortened
from tests.keras_training import compile_model


@pytest.fixture(scope="module")
def batches():
    data = demo.load_digits()
    images, labels = data.train_images[:64, ..., None], data.train_labels[:64]
    return [(images[:32], labels[:32]), (images[32:], labels[32:])]


def no_steps(loader, model, optimizer, controller, steps):
    """For configs that search: a search is tested elsewhere."""


def no_loss(model, loader):
    return 0.0, 0.0


def accuracy(model: keras.Model, loader: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([(np.argmax(model(x, training=False), 1) == y).mean() for x, y in loader]))


@pytest.mark.filterwarnings("ignore:.* has not reached its target:UserWarning")  # after one step
@pytest.mark.parametrize("file", FOR_IMAGES)
def test_config_runs(file, batches):
    keras.utils.set_random_seed(0)
    config = shortened(NNCFConfig.from_json(file))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    register_default_init_args(
        config,
        batches,
        32,
        train_steps_fn=no_steps,
        validate_fn=no_loss,
        val_loader=batches,
        criterion=loss,
        autoq_eval_fn=accuracy,
    )
    ctrl, model = create_compressed_model(digits_net(), config)
    assert len(ctrl.plan) > 0
    compile_model(model, keras.optimizers.SGD(0.01), loss)
    weights = [variable for variable in model.trainable_variables if np.prod(variable.shape) > 1]
    weights = [variable for variable in weights if not variable.path.endswith("bias.movement_mask.score")]  # biases start at 0
    coded = [id(ctrl._attached._variable(edit.site)) for edit in ctrl.plan if "codes" in ctrl.variable_values(edit)]
    weights = [variable for variable in weights if id(variable) not in coded]
    before = [variable.numpy() for variable in weights]

    x, y = batches[0]
    callbacks = create_compression_callbacks(ctrl, log_tensorboard=False, log_text=False)
    history = model.fit(x, y, batch_size=32, epochs=1, callbacks=callbacks, verbose=0)

    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)
    assert all((a.numpy() != b).any() for a, b in zip(weights, before, strict=True)), "a weight did not move"
    assert all(
        algorithm.algorithm in str(ctrl.statistics()) for algorithm in config.algorithms() if ctrl.plan.of(algorithm.algorithm)
    )
    assert np.isfinite(keras.ops.convert_to_numpy(ctrl.strip()(x))).all()
