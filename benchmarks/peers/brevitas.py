"""Brevitas: layer-wise 8-bit quantization. Its step is measured after the phase of collecting ranges, when scales are learned."""

from brevitas.graph.calibrate import calibration_mode
from brevitas.graph.quantize import layerwise_quantize
from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
from torch import Tensor, nn

KIND = "learned activation scales"


def quantize(model: nn.Module, batch: Tensor) -> nn.Module:
    model = layerwise_quantize(model)
    model.eval()
    with calibration_mode(model):
        model(batch)
    return model.train()


def count(model: nn.Module) -> int:
    proxies = (ActQuantProxyFromInjector, WeightQuantProxyFromInjector)
    return sum(isinstance(module, proxies) and module.is_quant_enabled for module in model.modules())
