"""NVIDIA ModelOpt: `INT8_DEFAULT_CFG`; ranges stay as calibrated."""

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from torch import Tensor, nn


def quantize(model: nn.Module, batch: Tensor) -> tuple[nn.Module, int]:
    """The model, ready to be trained, and its number of quantizers."""
    with torch.no_grad():
        model = mtq.quantize(model.eval(), mtq.INT8_DEFAULT_CFG, lambda calibrated: calibrated(batch))
    return model.train(), sum(isinstance(module, TensorQuantizer) and module.is_enabled for module in model.modules())
