"""nncf_ext: int8 with learned scales, calibrated on the batch, as a user gets it."""

from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn

from nncf_ext import NNCFConfig

KIND = "learned scales"


def config_for(batch: Tensor) -> NNCFConfig:
    """`batch`: images, or token numbers."""
    shape = {"sample_size": [1, *batch.shape[1:]]}
    if not batch.is_floating_point():
        shape |= {"type": "long", "keyword": "input_ids"}
    return NNCFConfig.from_dict({"input_info": [shape], "compression": {"algorithm": "quantization"}})
