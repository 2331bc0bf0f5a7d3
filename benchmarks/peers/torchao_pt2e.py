"""torchao PT2E: `prepare_qat_pt2e` for the x86 backend; ranges are observed as moving averages during training."""

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import FakeQuantizeBase, move_exported_model_to_train
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

KIND = "observed ranges"


def quantize(model: nn.Module, batch: Tensor) -> nn.Module:
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(torch.export.export(model, (batch,), strict=True).module(), quantizer)
    move_exported_model_to_train(prepared)
    return prepared


def count(model: nn.Module) -> int:
    return sum(isinstance(module, FakeQuantizeBase) for module in model.modules())
