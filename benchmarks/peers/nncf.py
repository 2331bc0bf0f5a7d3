"""NNCF 3.4: `nncf.quantize` and training of the result, with learned scales. Its very first forward builds a C++ extension."""

import os

os.environ["NNCF_EXTENSION_LOAD_TIMEOUT"] = "0"  # the build takes about 2 minutes on 2 cores, NNCF waits for one

import nncf
from nncf.torch.quantization.layers import BaseQuantizer
from torch import Tensor, nn


def quantize(model: nn.Module, batch: Tensor) -> tuple[nn.Module, int]:
    """The model, ready to be trained, and its number of quantizers.

    A model of tokens is announced as a transformer, which takes fewer quantizers; without what that brings beside placement:
    asymmetric ranges, and the multiplications of SmoothQuant.
    """
    model_type = None if batch.is_floating_point() else nncf.ModelType.TRANSFORMER
    preset = nncf.QuantizationPreset.PERFORMANCE
    off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    parameters = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off)
    model = nncf.quantize(
        model.eval(), nncf.Dataset([batch]), preset=preset, model_type=model_type, advanced_parameters=parameters
    )
    return model.train(), sum(isinstance(module, BaseQuantizer) for module in model.modules())
