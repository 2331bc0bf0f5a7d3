"""NNCF 3.4: `nncf.quantize` and training of the result. Builds an extension in C++ at its first forward (about 2 minutes)."""

import os

os.environ["NNCF_EXTENSION_LOAD_TIMEOUT"] = "0"  # its limit of 60 s is shorter than the build

import nncf
from nncf.torch.quantization.layers import BaseQuantizer
from torch import Tensor, nn

KIND = "learned scales"


def quantize(model: nn.Module, batch: Tensor) -> nn.Module:
    return nncf.quantize(model.eval(), nncf.Dataset([batch])).train()


def count(model: nn.Module) -> int:
    return sum(isinstance(module, BaseQuantizer) for module in model.modules())
