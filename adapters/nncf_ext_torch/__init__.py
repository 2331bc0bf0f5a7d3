"""nncf_ext for PyTorch."""

from nncf_ext_torch.accuracy_aware import (
    AdaptiveCompressionTrainingLoop,
    EarlyExitCompressionTrainingLoop,
    create_accuracy_aware_training_loop,
)
from nncf_ext_torch.creation import create_compressed_model, preview_compression
from nncf_ext_torch.initialization import register_default_init_args
from nncf_ext_torch.load_state import load_state
from nncf_ext_torch.soup import make_soup
from nncf_ext_torch.tracing_marks import (
    disable_tracing,
    nncf_model_input,
    nncf_model_output,
    no_nncf_trace,
    register_module,
    register_operator,
)

__all__ = [
    "AdaptiveCompressionTrainingLoop",
    "EarlyExitCompressionTrainingLoop",
    "create_accuracy_aware_training_loop",
    "create_compressed_model",
    "disable_tracing",
    "load_state",
    "make_soup",
    "nncf_model_input",
    "nncf_model_output",
    "no_nncf_trace",
    "preview_compression",
    "register_default_init_args",
    "register_module",
    "register_operator",
]
