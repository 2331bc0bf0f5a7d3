"""`create_compressed_model` for Keras 3, with NNCF 2.x's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from nncf_ext import NNCFConfig
from nncf_ext.compress import compress
from nncf_ext.controller import Controller
from nncf_ext.nncf_config import first_batch
from nncf_ext.tools.preview import Preview, preview
from nncf_ext_tensorflow.adapter import KerasAdapter
from nncf_ext_tensorflow.data import expected_inputs
from nncf_ext_tensorflow.initialization import example_of


def create_compressed_model(
    model: keras.Model,
    config: NNCFConfig,
    compression_state: Mapping[str, Any] | None = None,
    *,
    teacher: keras.Model | None = None,
) -> tuple[Controller, keras.Model]:
    """Compress `model` in place as `config` says; returns (controller, model).

    compression_state: of an earlier controller's `get_compression_state`; nothing is initialised then, load the weights after.
    teacher: another model for knowledge_distillation than a copy of `model`.
    Compression losses are part of the loss in `fit`; in a loop of your own add `controller.loss()` to the task's loss.
    Raises ConfigError for mistakes in the config, ValueError for a model that is compressed already; the model is then as it was.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    >>> config = NNCFConfig.from_dict({"compression": [{"algorithm": "const_sparsity"}, {"algorithm": "quantization"}]})
    >>> x, y = np.random.rand(32, 4).astype("float32"), np.ones((32, 2), "float32")
    >>> controller, model = create_compressed_model(model, register_default_init_args(config, (x, y)))
    >>> model.compile("sgd", "mse")  # after compressing
    >>> history = model.fit(x, y, verbose=0, callbacks=create_compression_callbacks(controller, log_text=False))
    >>> controller.statistics().quantization.weights_quantized
    48
    >>> controller.save_checkpoint("checkpoint.safetensors")
    >>> [type(layer).__name__ for layer in controller.strip(quantizers=False).layers]
    ['Dense', 'Dense']
    """
    example = _example(model, config)
    controller = compress(_adapter(model, config), model, config, example, compression_state, teacher)
    return controller, model


def preview_compression(model: keras.Model, config: NNCFConfig) -> Preview:
    """What `create_compressed_model` would do to `model`, layer by layer, to be printed; the model stays as it is.

    What data decide (ranges, a precision search) is named, not run. Raises as `create_compressed_model` does.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> config = NNCFConfig.from_dict({"compression": {"algorithm": "magnitude_sparsity"}})
    >>> preview = preview_compression(model, config)
    >>> preview.layers[0].name, preview.layers[0].happens
    ('head', ('weight: magnitude mask, to 50% zeros over all such layers',))
    """
    return preview(_adapter(model, config), model, config, _example(model, config))


def _example(model: keras.Model, config: NNCFConfig) -> Any:
    """Inputs to trace with; None where the model knows its own."""
    example = example_of(NNCFConfig.expected(config))
    if example is None and not getattr(model, "inputs", None):  # a subclassed model does not know its inputs by itself
        example = first_batch(config, expected_inputs(model))
    return example


def _adapter(model: keras.Model, config: NNCFConfig) -> KerasAdapter:
    return KerasAdapter(lambda: first_batch(NNCFConfig.expected(config), expected_inputs(model)))
