"""nncf_ext for Keras 3 on TensorFlow."""

from nncf_ext.algorithm import CompressionStage
from nncf_ext.nncf_config import is_accuracy_aware_training
from nncf_ext.numerics import twice_differentiable
from nncf_ext_tensorflow.accuracy_aware import accuracy_aware_fit
from nncf_ext_tensorflow.callbacks import AverageWeights, create_compression_callbacks, only_when_compressed
from nncf_ext_tensorflow.creation import create_compressed_model, preview_compression
from nncf_ext_tensorflow.initialization import BNAdaptationInitArgs, QuantizationRangeInitArgs, register_default_init_args
from nncf_ext_tensorflow.load_state import load_state
from nncf_ext_tensorflow.soup import make_soup

__all__ = [
    "AverageWeights",
    "BNAdaptationInitArgs",
    "CompressionStage",
    "QuantizationRangeInitArgs",
    "accuracy_aware_fit",
    "create_compressed_model",
    "create_compression_callbacks",
    "is_accuracy_aware_training",
    "load_state",
    "make_soup",
    "only_when_compressed",
    "preview_compression",
    "register_default_init_args",
    "twice_differentiable",
]
