"""nncf_ext: int8 with learned scales, calibrated on the batch."""

from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import Tensor, nn

from nncf_ext import NNCFConfig


def quantize(model: nn.Module, batch: Tensor) -> tuple[nn.Module, int]:
    """The model, ready to be trained, and its number of quantizers."""
    shape = {"sample_size": list(batch.shape)}
    if not batch.is_floating_point():
        shape |= {"type": "long", "keyword": "input_ids"}
    config = NNCFConfig.from_dict({"input_info": shape, "compression": {"algorithm": "quantization"}})
    controller, model = create_compressed_model(model, register_default_init_args(config, [(batch, None)]))
    return model.train(), controller.statistics().quantization.quantizers.total()
