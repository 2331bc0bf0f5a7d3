"""For tests of `fit`."""

from __future__ import annotations

from typing import Any

import keras


def compile_model(model: keras.Model, optimizer: Any, loss: Any, **options: Any) -> None:
    """Compile, and make the optimizer's variables at once: a `tf.function` whose first call makes variables is traced twice."""
    model.compile(optimizer, loss, **options)
    model.optimizer.build(model.trainable_variables)
