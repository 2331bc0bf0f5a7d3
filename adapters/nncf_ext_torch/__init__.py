"""nncf_ext for PyTorch."""

from nncf_ext.algorithm import CompressionStage
from nncf_ext.nncf_config import is_accuracy_aware_training
from nncf_ext.numerics import twice_differentiable
from nncf_ext_torch.accuracy_aware import (
    AdaptiveCompressionTrainingLoop,
    EarlyExitCompressionTrainingLoop,
    create_accuracy_aware_training_loop,
)
from nncf_ext_torch.creation import create_compressed_model, preview_compression
from nncf_ext_torch.initialization import (
    BNAdaptationInitArgs,
    ExecutionParameters,
    PTInitializingDataLoader,
    QuantizationRangeInitArgs,
    register_default_init_args,
    wrap_dataloader_for_init,
)
from nncf_ext_torch.load_state import load_state
from nncf_ext_torch.pruned_files import load_pruned, save_pruned
from nncf_ext_torch.soup import make_soup
from nncf_ext_torch.tracing_marks import (
    disable_patching,
    disable_tracing,
    forward_nncf_trace,
    nncf_model_input,
    nncf_model_output,
    no_nncf_trace,
    register_module,
    register_operator,
)
from nncf_ext_torch.trainers import lightning_callback, trainer_callback

__all__ = [
    "AdaptiveCompressionTrainingLoop",
    "BNAdaptationInitArgs",
    "CompressionStage",
    "EarlyExitCompressionTrainingLoop",
    "ExecutionParameters",
    "PTInitializingDataLoader",
    "QuantizationRangeInitArgs",
    "create_accuracy_aware_training_loop",
    "create_compressed_model",
    "disable_patching",
    "disable_tracing",
    "forward_nncf_trace",
    "is_accuracy_aware_training",
    "lightning_callback",
    "load_pruned",
    "load_state",
    "make_soup",
    "nncf_model_input",
    "nncf_model_output",
    "no_nncf_trace",
    "preview_compression",
    "register_default_init_args",
    "register_module",
    "register_operator",
    "save_pruned",
    "trainer_callback",
    "twice_differentiable",
    "wrap_dataloader_for_init",
]
