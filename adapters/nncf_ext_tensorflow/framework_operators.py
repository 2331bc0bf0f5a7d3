"""Quantizers as TensorFlow's own fake-quantize operators, which the TFLite converter and other readers of SavedModels know."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from nncf_ext.edits import Edit
from nncf_ext.quantization.quantizers.fixed import Affine, FixedQuantizer, affine
from nncf_ext_tensorflow import keras_private, xp


class _Loops(threading.local):
    running = False


_loops = _Loops()


@contextmanager
def in_keras_loop() -> Iterator[None]:
    """Around a step of `fit`, `evaluate` or `predict`, whose graphs nobody else reads."""
    before, _loops.running = _loops.running, True
    try:
        yield
    finally:
        _loops.running = before


def is_exporting() -> bool:
    """Whether TensorFlow records an inference that is not one of Keras' loops and that nobody differentiates: `model.export`,
    `tf.saved_model.save`, the TFLite converter, or a `tf.function` of the user's."""
    if tf.executing_eagerly() or _loops.running or keras_private.trained_now():
        return False
    return not keras_private.is_recording_gradients()


def operators_of(edit: Edit, x: Any, variables: Mapping[str, Any]) -> Any:
    """The edit in inference, a quantizer with TensorFlow's own operator where that has its grid; x: float32.

    The operator rounds halves up, and its steps are off by an ulp: values are within a step of the quantizer's, nearly all within
    an ulp. A weight is rounded before.
    """
    of_weight = edit.site.is_parameter
    found = affine(xp, edit.transform, variables, of_weight)
    if found is None:
        return edit.apply(xp, x, variables, False)
    if of_weight and not isinstance(edit.transform, FixedQuantizer):
        x = edit.apply(xp, x, variables, False)
    elif found.clips and not of_weight:
        low, high = found.ends
        x = tf.minimum(tf.maximum(x, low), high)
    if of_weight and _is_of_product(found):
        return x
    return _fake_quantize(x, found)


def _is_of_product(found: Affine) -> bool:
    """Whether a weight with a range by channel is of a matrix product. The TFLite converter (TensorFlow 2.21) transposes those,
    forgets to transpose the channels' axis, and fails; rounded weights without the operator it takes."""
    shape = found.scale.shape
    return shape.rank < 4 and shape.num_elements() > 1


def _fake_quantize(x: Any, found: Affine) -> Any:
    lowest, highest = found.codes
    narrow = found.lowest > lowest and lowest < 0  # TFLite takes weights from -127 on
    scale: Any = tf.convert_to_tensor(found.scale, tf.float32)
    point: Any = keras.ops.cast(found.zero_point, "float32")
    low, high = (lowest + narrow - point) * scale, (highest - point) * scale
    settings: dict[str, Any] = {"num_bits": 8, "narrow_range": narrow}
    if scale.shape.num_elements() == 1:
        return tf.raw_ops.FakeQuantWithMinMaxVars(inputs=x, min=tf.reshape(low, ()), max=tf.reshape(high, ()), **settings)
    axis, rank = max(range(scale.shape.rank), key=lambda axis: scale.shape[axis]), scale.shape.rank
    low, high = tf.reshape(low, (-1,)), tf.reshape(high, (-1,))
    if axis == rank - 1:
        return tf.raw_ops.FakeQuantWithMinMaxVarsPerChannel(inputs=x, min=low, max=high, **settings)
    order = [a for a in range(rank) if a != axis] + [axis]
    last = tf.raw_ops.FakeQuantWithMinMaxVarsPerChannel(inputs=tf.transpose(x, order), min=low, max=high, **settings)
    return tf.transpose(last, [order.index(a) for a in range(rank)])
