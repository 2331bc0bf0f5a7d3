"""nncf_ext on Keras 3: int8 with learned scales, calibrated on the images."""

from typing import Any

from keras.applications import MobileNetV2
from nncf_ext_tensorflow import create_compressed_model, register_default_init_args

from nncf_ext import NNCFConfig


def build(pixels: int, images: Any) -> tuple[Any, Any, int]:
    """The float model, a quantized one, and its number of quantizers."""
    shape = (pixels, pixels, 3)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, *shape]}, "compression": {"algorithm": "quantization"}})
    register_default_init_args(config, [images], batch_size=len(images))
    controller, quantized = create_compressed_model(MobileNetV2(weights=None, input_shape=shape), config)
    return MobileNetV2(weights=None, input_shape=shape), quantized, controller.statistics().quantization.quantizers.total()
