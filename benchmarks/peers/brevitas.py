"""Brevitas: layer-wise 8-bit quantization. Past its phase of collecting ranges, so that scales of activations are learned."""

import torch
from brevitas.graph.calibrate import calibration_mode
from brevitas.graph.quantize import layerwise_quantize
from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
from torch import Tensor, nn


def quantize(model: nn.Module, batch: Tensor) -> tuple[nn.Module, int]:
    """The model, ready to be trained, and its number of quantizers."""
    model = layerwise_quantize(model).eval()
    with torch.no_grad(), calibration_mode(model):
        model(batch)
    quantizers = (ActQuantProxyFromInjector, WeightQuantProxyFromInjector)
    return model.train(), sum(isinstance(module, quantizers) and module.is_quant_enabled for module in model.modules())
