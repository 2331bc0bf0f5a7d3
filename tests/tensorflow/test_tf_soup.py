"""Soups of Keras models: a small network on digits, plain, and compressed with masks and quantizers."""

import keras
import numpy as np
import pytest
from keras import layers
from nncf_ext_tensorflow import AverageWeights, create_compressed_model, make_soup, register_default_init_args
from nncf_ext_tensorflow.adapter import KerasAdapter

from nncf_ext import NNCFConfig
from nncf_ext.checkpoint import load_checkpoint
from nncf_ext.soup import SoupError
from nncf_ext.tools import demo

DATA = demo.load_digits()
IMAGES, LABELS = DATA.train_images[:512, ..., None], DATA.train_labels[:512]
TEST, TEST_LABELS = DATA.test_images[..., None], DATA.test_labels
CONFIG = {
    "input_info": {"sample_size": [1, 8, 8, 1]},
    "compression": [
        {"algorithm": "magnitude_sparsity", "sparsity_init": 0.5, "params": {"schedule": "multistep", "multistep_steps": [99]}},
        {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 128}}},
    ],
}
task_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def accuracy(model):
    return float((np.argmax(model(TEST, training=False), 1) == TEST_LABELS).mean())


def inputs():
    return [IMAGES[i : i + 128] for i in range(0, len(IMAGES), 128)]


def net(seed=0):
    keras.utils.set_random_seed(seed)
    x = given = keras.Input((8, 8, 1))
    for number, filters in enumerate((8, 16)):
        x = layers.Conv2D(filters, 3, strides=number + 1, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(x))
    return keras.Model(given, layers.Dense(10, name="head")(layers.Flatten(name="flat")(x)))


def fit(model, rate, seed, epochs=1, callbacks=(), **settings):
    keras.utils.set_random_seed(seed)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, **settings), task_loss)
    model.fit(IMAGES, LABELS, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))


@pytest.fixture(scope="module")
def pretrained():
    model = net()
    fit(model, 0.05, 0, epochs=3)
    return model.get_weights()


def copy_of(weights):
    model = net()
    model.set_weights(weights)
    return model


def compressed(weights):
    config = register_default_init_args(NNCFConfig.from_dict(CONFIG), [(x, None) for x in inputs()], 128)
    return create_compressed_model(copy_of(weights), config)


@pytest.fixture(scope="module")
def plain(pretrained):
    """The tensors of two fine-tuned models and, last, of one with another start that was not trained."""
    models = [copy_of(pretrained), copy_of(pretrained), net(7)]
    for seed, model in enumerate(models[:2]):
        fit(model, 0.02 + 0.01 * seed, seed + 1)
    return [KerasAdapter().tensors(model) for model in models]


@pytest.fixture(scope="module")
def files(pretrained, tmp_path_factory):
    """Two checkpoints of compressed models with one mask."""
    folder = tmp_path_factory.mktemp("soup")
    for seed in range(2):
        ctrl, model = compressed(pretrained)
        fit(model, 0.02, seed + 1)
        ctrl.save_checkpoint(folder / f"{seed}.safetensors")
    return [folder / f"{seed}.safetensors" for seed in range(2)]


def test_uniform_with_fresh_statistics(pretrained, plain):
    model = copy_of(pretrained)
    soup = make_soup(model, plain[:2], evaluate=accuracy, batches=inputs)
    np.testing.assert_allclose(soup.tensors["head/kernel"], (plain[0]["head/kernel"] + plain[1]["head/kernel"]) / 2, atol=1e-7)
    averaged = (plain[0]["bn0/moving_variance"] + plain[1]["bn0/moving_variance"]) / 2
    assert not np.allclose(soup.tensors["bn0/moving_variance"], averaged, rtol=1e-4)
    assert soup.score == accuracy(model) > 0.5


def test_a_linear_model_computes_the_mean_of_the_outputs():
    def linear():
        return keras.Sequential([keras.Input((64,)), layers.Dense(10, name="head")])

    x, models, soup = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32), [linear() for _ in range(3)], linear()
    make_soup(soup, [KerasAdapter().tensors(model) for model in models])
    np.testing.assert_allclose(soup(x), np.mean([model(x) for model in models], 0), atol=1e-5)


def test_greedy_and_learned(pretrained, plain):
    model = copy_of(pretrained)
    greedy = make_soup(model, plain, "greedy", evaluate=accuracy, batches=inputs)
    assert greedy.score >= max(greedy.scores.values()) and greedy.score == accuracy(model)
    assert greedy.shares["ingredient 3"] == 0
    held_out = [(TEST[i::3], TEST_LABELS[i::3]) for i in range(3)]
    for by_layer in (False, True):
        soup = make_soup(
            model,
            plain,
            "learned",
            evaluate=accuracy,
            batches=inputs,
            loss=lambda outputs, target: task_loss(target, outputs),
            data=lambda: held_out,
            by_layer=by_layer,
        )
        assert soup.score >= greedy.score and soup.score == accuracy(model)
        assert sum(soup.shares.values()) == pytest.approx(1)


def test_gradients_of_a_loss():
    """By hand: y = f * w x, loss = y * t, so dw = f t x, df = t w x; BatchNorm's statistics have none."""
    norm = layers.BatchNormalization(epsilon=0, name="bn")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, name="head"), norm])
    model.layers[0].kernel.assign([[1.0], [2.0]])
    x, target = np.array([[3.0, 4.0]], np.float32), 2.0
    loss = KerasAdapter().loss_gradients(model, lambda y, t: keras.ops.sum(y * t), (x, target), 0.5)
    value, by_factor, gradients = loss
    assert (value, by_factor) == (11.0, 22.0)
    assert set(gradients) == {"head/kernel", "bn/gamma", "bn/beta"}
    np.testing.assert_allclose(gradients["head/kernel"], [[3.0], [4.0]])


def test_compressed_models_keep_mask_and_average_ranges(pretrained, files, tmp_path):
    ctrl, model = compressed(pretrained)
    soup = make_soup(model, files, evaluate=accuracy, batches=inputs)
    stored = [load_checkpoint(path)[0] for path in files]
    masks = [name for name in soup.tensors if name.endswith(".mask")]
    scales = [name for name in soup.tensors if name.endswith(".scale")]
    assert len(masks) == 3 and len(scales) >= 5
    for name in masks:
        np.testing.assert_array_equal(soup.tensors[name], stored[0][name])
    for name in scales:
        np.testing.assert_allclose(soup.tensors[name], np.mean([one[name] for one in stored], 0), rtol=1e-6)
    assert ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers == pytest.approx(0.5, abs=0.01)
    soup.save(tmp_path / "soup.safetensors")
    other, again = compressed(pretrained)
    other.load_checkpoint(tmp_path / "soup.safetensors")
    assert accuracy(again) == soup.score > 0.5


def test_different_masks(pretrained, files, tmp_path):
    ctrl, model = compressed(pretrained)
    ctrl.load_checkpoint(files[0])
    fit(model, 0.1, 9)
    ctrl.set_sparsity_level(0.4)
    ctrl.save_checkpoint(tmp_path / "other.safetensors")
    pair = [files[0], tmp_path / "other.safetensors"]
    with pytest.raises(SoupError, match="its mask differs from that of"):
        make_soup(model, pair)
    name, mask = "head/kernel", next(n for n in load_checkpoint(files[0])[0] if "head" in n and n.endswith(".mask"))
    stored = [load_checkpoint(path)[0] for path in pair]
    zeros = {"union": 0.0, "intersection": 0.0}
    for masks in zeros:
        tensors = make_soup(model, pair, masks=masks).tensors
        if masks == "union":  # the mean of what the models compute with
            np.testing.assert_allclose(
                tensors[name] * tensors[mask], np.mean([one[name] * one[mask] for one in stored], 0), atol=1e-6
            )
        zeros[masks] = ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers
    assert zeros["union"] <= 0.4 and zeros["intersection"] >= 0.5


@pytest.mark.parametrize("decay, per_batch", [(None, False), (0.9, True)])
def test_running_averages_in_fit(pretrained, tmp_path, decay, per_batch):
    """Weights and ranges are averaged, masks are the model's, and the averaged model can be stripped."""
    ctrl, model = compressed(pretrained)
    average = ctrl.weight_average(decay)
    fit(model, 0.05, 1, epochs=2, callbacks=[AverageWeights(average, per_batch)])
    assert average.updates == (16 if per_batch else 2)
    trained = KerasAdapter().tensors(model)
    with average.applied(inputs()):
        assert accuracy(model) > 0.5
        ctrl.save_checkpoint(tmp_path / "averaged.safetensors")
        assert isinstance(ctrl.strip(), keras.Model)
    for name, value in KerasAdapter().tensors(model).items():
        np.testing.assert_array_equal(value, trained[name])
    saved = load_checkpoint(tmp_path / "averaged.safetensors")[0]
    for name, value in saved.items():
        if name.endswith(".mask"):
            np.testing.assert_array_equal(value, trained[name])
    assert np.abs(saved["head/kernel"] - trained["head/kernel"]).max() > 1e-4


def test_averaged_training_resumes_bit_for_bit(pretrained, tmp_path):
    def run(cut):
        ctrl, model = compressed(pretrained)
        average = ctrl.weight_average(0.9)
        for epoch in range(2):
            if epoch and cut:
                ctrl.save_checkpoint(tmp_path / "run.safetensors")
                average.save(tmp_path / "average.safetensors")
                ctrl, model = compressed(net(5).get_weights())
                average = ctrl.weight_average(0.9)
                ctrl.load_checkpoint(tmp_path / "run.safetensors")
                average.load(tmp_path / "average.safetensors")
            fit(model, 0.02, epoch, callbacks=[AverageWeights(average, per_batch=True)])
        return average.tensors

    whole, resumed = run(False), run(True)
    assert all(whole[name].tobytes() == resumed[name].tobytes() for name in whole)


def test_keras_own_ema_works_with_compressed_models(pretrained):
    """`use_ema` averages weights and learned ranges at the optimizer's steps; masks, which are not trained, stay."""
    ctrl, model = compressed(pretrained)
    fit(model, 0.05, 1, use_ema=True, ema_momentum=0.9)  # at its end, fit puts the averages into the model
    averages = {id(v): a for v, a in zip(model.trainable_variables, model.optimizer._model_variables_moving_average, strict=True)}
    learned = [v for v in model.trainable_variables if "scale" in v.path]
    assert learned
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), averages[id(variable)].numpy())
    assert ctrl.statistics().magnitude_sparsity.sparsity_level_for_layers == pytest.approx(0.5, abs=0.01)
    assert accuracy(model) > 0.5
