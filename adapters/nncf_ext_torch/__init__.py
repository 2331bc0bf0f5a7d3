"""nncf_ext for PyTorch."""

from nncf_ext_torch.accuracy_aware import (
    AdaptiveCompressionTrainingLoop,
    EarlyExitCompressionTrainingLoop,
    create_accuracy_aware_training_loop,
)
from nncf_ext_torch.creation import create_compressed_model
from nncf_ext_torch.initialization import register_default_init_args

__all__ = [
    "AdaptiveCompressionTrainingLoop",
    "EarlyExitCompressionTrainingLoop",
    "create_accuracy_aware_training_loop",
    "create_compressed_model",
    "register_default_init_args",
]
