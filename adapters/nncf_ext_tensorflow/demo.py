"""The demo in Keras 3: train, compress while training, export, verify. Run by `nncf-ext demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from nncf_ext import NNCFConfig
from nncf_ext.tools import demo
from nncf_ext_tensorflow import create_compressed_model, create_compression_callbacks, register_default_init_args


def batch_norm() -> Any:
    """Keras' default momentum, 0.99, takes more steps than there are here to learn the statistics."""
    return layers.BatchNormalization(momentum=0.9)


def residual(x: Any, filters: int, strides: int) -> Any:
    y = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    y = layers.ReLU()(batch_norm()(y))
    y = batch_norm()(layers.Conv2D(filters, 3, padding="same", use_bias=False)(y))
    shortcut = batch_norm()(layers.Conv2D(filters, 1, strides, use_bias=False)(x))
    return layers.ReLU()(layers.Add()([y, shortcut]))


def digits_net(widths: tuple[int, int, int, int] = (32, 64, 128, 192)) -> keras.Model:
    """A small residual network for 8x8x1 images and 10 classes. widths: channels of the stem and of the three blocks."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(widths[0], 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(batch_norm()(x))
    for filters, strides in zip(widths[1:], (1, 2, 2), strict=True):
        x = residual(x, filters, strides)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


class Bar(keras.callbacks.Callback):
    """Shows the epochs and the test accuracy in the demo's progress bar."""

    def __init__(self, bar: Any, task: Any, controller: Any = None):
        super().__init__()
        self._bar, self._task, self._controller = bar, task, controller

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        note = f"accuracy {(logs or {})['val_accuracy']:.4f}"
        if self._controller is not None:
            note += f", sparsity {self._controller.statistics().magnitude_sparsity.sparsity_level_for_layers:.2f}"
        self._bar.update(self._task, advance=1, note=note)


def compile_model(model: keras.Model, rate: float, epochs: int, steps: int) -> None:
    decay: Any = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    optimizer = keras.optimizers.SGD(decay, momentum=0.9, weight_decay=5e-4)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])


def accuracy(model: Any, test: tuple[np.ndarray, np.ndarray]) -> float:
    return model.evaluate(*test, verbose=0)[1]


def run(folder: Path) -> None:
    start = time.perf_counter()
    keras.utils.set_random_seed(demo.SEED)
    data = demo.load_digits()
    images, labels = data.train_images[..., None], data.train_labels
    test = np.ascontiguousarray(data.test_images[..., None]), data.test_labels
    steps = -(-len(images) // demo.BATCH_SIZE)
    model = digits_net()

    with demo.progress_bar() as bar:
        task = bar.add_task("keras: training in float", total=demo.FLOAT_EPOCHS, note="")
        compile_model(model, 0.05, demo.FLOAT_EPOCHS, steps)
        settings: dict[str, Any] = {"batch_size": demo.BATCH_SIZE, "validation_data": test, "verbose": 0}
        model.fit(images, labels, epochs=demo.FLOAT_EPOCHS, callbacks=[Bar(bar, task)], **settings)
        rows = [demo.Measured("float model", accuracy(model, test))]
        plain, _ = create_compressed_model(model, NNCFConfig.from_dict({"input_info": {"sample_size": [1, 8, 8, 1]}}))
        plain.export_model(folder / "float.onnx")
        model = plain.strip(do_copy=False, quantizers=False)

        with demo.config_file() as path:
            config = NNCFConfig.from_json(path)
        loader = [
            (images[i : i + demo.BATCH_SIZE], labels[i : i + demo.BATCH_SIZE]) for i in range(0, len(images), demo.BATCH_SIZE)
        ]
        config = register_default_init_args(config, loader, demo.BATCH_SIZE)
        ctrl, model = create_compressed_model(model, config)

        task = bar.add_task("keras: compressing", total=demo.COMPRESSED_EPOCHS, note="")
        compile_model(model, 0.02, demo.COMPRESSED_EPOCHS, steps)
        callbacks = [*create_compression_callbacks(ctrl, False, False, str(demo.without_log(folder))), Bar(bar, task, ctrl)]
        model.fit(images, labels, epochs=demo.COMPRESSED_EPOCHS, callbacks=callbacks, **settings)
    rows.append(demo.Measured("compressed model", accuracy(model, test)))
    ctrl.save_checkpoint(folder / "compressed.safetensors")
    parity = ctrl.export_model(folder / "compressed.onnx")
    rows.append(demo.measure_onnx(folder / "float.onnx", *test))
    rows.append(demo.measure_onnx(folder / "compressed.onnx", *test))
    demo.show("tensorflow", rows, folder, time.perf_counter() - start)
    print(parity)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
