"""TensorFlow Model Optimization 0.8.1: `quantize_model` of tf_keras' MobileNetV2; needs TF_USE_LEGACY_KERAS=1."""

from typing import Any

import tensorflow_model_optimization as tfmot
from tf_keras.applications import MobileNetV2


def build(pixels: int, images: Any) -> tuple[Any, Any, int]:
    """The float model, a quantized one, and its number of quantizers. Ranges are moving averages of what passes in training."""
    shape = (pixels, pixels, 3)
    quantized = tfmot.quantization.keras.quantize_model(MobileNetV2(weights=None, input_shape=shape))
    return MobileNetV2(weights=None, input_shape=shape), quantized, sum("_min" in weight.name for weight in quantized.weights)
