"""nncf_ext for PyTorch."""

from nncf_ext_torch.creation import create_compressed_model
from nncf_ext_torch.initialization import register_default_init_args

__all__ = ["create_compressed_model", "register_default_init_args"]
