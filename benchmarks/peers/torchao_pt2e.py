"""torchao PT2E: `prepare_qat_pt2e` for the x86 backend; ranges are moving averages of what passes during training."""

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import FakeQuantizeBase, move_exported_model_to_train
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


def quantize(model: nn.Module, batch: Tensor) -> tuple[nn.Module, int]:
    """The model, ready to be trained, and its number of quantizers."""
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    model = prepare_qat_pt2e(torch.export.export(model, (batch,), strict=True).module(), quantizer)
    move_exported_model_to_train(model)
    return model, sum(isinstance(module, FakeQuantizeBase) for module in model.modules())
