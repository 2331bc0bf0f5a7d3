"""Keras' Optimizer.apply is ours only while an algorithm has to see steps."""

import gc
import weakref

import keras
import numpy as np
import pytest
from nncf_ext_tensorflow import create_compressed_model, optimizer_steps, register_default_init_args
from nncf_ext_tensorflow.optimizer_steps import ignore, listen

from nncf_ext import NNCFConfig

SPARSITY = {
    "algorithm": "magnitude_sparsity",
    "params": {"schedule": "multistep", "multistep_sparsity_levels": [0.5], "multistep_steps": []},
}
ROUNDS = {"algorithm": "iterative_magnitude", "params": {"sparsity_target": 0.5, "rounds": 2}}
RIGL = {"algorithm": "dynamic_sparse_training", "params": {"method": "rigl", "sparsity_target": 0.5}}
CONSTANT = {"algorithm": "const_sparsity"}
STATIC = {"algorithm": "dynamic_sparse_training", "params": {"method": "static", "sparsity_target": 0.5}}
PROXIMAL = {"algorithm": "corad", "regularization": {"type": "l1", "weight": 1, "proximal_step": 0.1}}


@pytest.fixture
def own(monkeypatch):
    """Keras' own method, while nobody listens: the models of other tests are alive, and hear what they did before afterwards."""
    apply = keras.optimizers.Optimizer.apply
    apply = getattr(apply, "listened_to", apply)
    monkeypatch.setattr(optimizer_steps, "_listening", weakref.WeakSet())
    monkeypatch.setattr(keras.optimizers.Optimizer, "apply", apply)
    return apply


def compressed(*compression):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a")])
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 8]}, "compression": list(compression)})
    register_default_init_args(config, [(np.zeros((2, 8), "float32"), np.zeros(2))], 2)
    return create_compressed_model(model, config)


@pytest.mark.parametrize("compression", [{"algorithm": "quantization"}, CONSTANT, STATIC], ids=lambda c: c["algorithm"])
def test_what_needs_no_hook_leaves_optimizers_as_they_are(own, compression):
    controller, _ = compressed(compression)
    assert keras.optimizers.Optimizer.apply is own
    controller.strip(do_copy=False)


@pytest.mark.filterwarnings("ignore:.* has not reached its target")
@pytest.mark.parametrize("compression", [SPARSITY, ROUNDS, RIGL, PROXIMAL], ids=lambda compression: compression["algorithm"])
def test_a_schedule_is_watched_until_the_model_is_stripped_or_gone(own, compression):
    for stripped in (True, False):
        controller, model = compressed(compression)
        assert keras.optimizers.Optimizer.apply is not own
        if stripped:
            controller.strip(do_copy=False)
            assert keras.optimizers.Optimizer.apply is own
            controller.statistics()  # of the compressed copy that is left, which nobody trains
        del controller, model
        gc.collect()
        assert keras.optimizers.Optimizer.apply is own


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.* has not reached its target")
def test_copies_of_a_model_listen_to_nobody(own, tmp_path):
    controller, model = compressed(PROXIMAL)
    heard = keras.optimizers.Optimizer.apply
    assert heard is not own
    copy = controller.strip()
    model.save(tmp_path / "model.keras")
    saved = keras.models.load_model(tmp_path / "model.keras")
    del controller, model
    gc.collect()
    assert keras.optimizers.Optimizer.apply is own
    for other in (copy, saved):
        other.compile("sgd", "mse")
        other.fit(np.ones((2, 8)), np.ones((2, 4)), verbose=0)


def test_what_others_wrapped_is_left_to_them(own):
    class Listener:
        def before_step(self, optimizer, gradients, variables):
            return list(gradients)

        def after_step(self, optimizer, variables):
            pass

    listener = Listener()
    listen(listener)
    ours = keras.optimizers.Optimizer.apply

    def theirs(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    theirs.listened_to = ours.listened_to  # as functools.wraps would
    keras.optimizers.Optimizer.apply = theirs
    ignore(listener)
    assert keras.optimizers.Optimizer.apply is theirs
