"""`create_compressed_model` for PyTorch, with NNCF 2.x's arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.compress import compress
from nncf_ext.controller import Controller
from nncf_ext.nncf_config import first_batch
from nncf_ext.tools.preview import Preview, preview
from nncf_ext_torch.adapter import TorchAdapter
from nncf_ext_torch.compiled_models import model_in, run_by_python
from nncf_ext_torch.data import expected_inputs
from nncf_ext_torch.initialization import example_of
from nncf_ext_torch.recurrent import projected_layer


def create_compressed_model(
    model: torch.nn.Module,
    config: NNCFConfig,
    compression_state: Mapping[str, Any] | None = None,
    dummy_forward_fn: Callable[[torch.nn.Module], Any] | None = None,
    wrap_inputs_fn: Any = None,
    wrap_outputs_fn: Any = None,
    dump_graphs: bool = True,
    *,
    teacher: torch.nn.Module | None = None,
) -> tuple[Controller, torch.nn.Module]:
    """Compress `model` in place as `config` says; returns (controller, model).

    compression_state: of an earlier controller's `get_compression_state`; nothing is initialised then, load the weights after.
    dummy_forward_fn(model): how to run the model once for tracing, where `input_info` or data cannot tell. wrap_inputs_fn,
    wrap_outputs_fn: NNCF 2.x's, without use here (models are traced without marking their inputs).
    dump_graphs: draw the graph before and after into the config's `log_dir`, where it has one.
    teacher: another model for knowledge_distillation than a copy of `model`.
    Raises ConfigError for mistakes in the config, ValueError for a model that is compressed already; the model is then as it was.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> sparse = {"algorithm": "const_sparsity"}, {"algorithm": "quantization"}
    >>> config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": list(sparse)})
    >>> controller, model = create_compressed_model(model, register_default_init_args(config, [torch.rand(16, 4)]))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # ranges are parameters too
    >>> controller.scheduler.epoch_step()
    >>> for x in torch.rand(3, 16, 4):
    ...     controller.scheduler.step()
    ...     optimizer.zero_grad()
    ...     (model(x).square().mean() + controller.loss()).backward()
    ...     optimizer.step()
    >>> controller.statistics().quantization.weights_quantized
    48
    >>> controller.save_checkpoint("checkpoint.safetensors")
    >>> plain = controller.strip(quantizers=False)
    >>> [type(layer).__name__ for layer in plain]
    ['Linear', 'ReLU', 'Linear']
    """
    with run_by_python(model):
        plain = model_in(model)
        _check_model(plain)
        example = _example(plain, config, dummy_forward_fn)
        controller = compress(TorchAdapter(), plain, config, example, compression_state, teacher, dump_graphs)
    projected = projected_layer(plain)
    if projected is not None:
        warnings.warn(
            f"{projected or type(plain).__name__}: an LSTM with proj_size cannot be exported, as ONNX's LSTM has no projection; "
            "strip() and pack() give it",
            stacklevel=2,
        )
    return controller, model


def preview_compression(
    model: torch.nn.Module, config: NNCFConfig, dummy_forward_fn: Callable[[torch.nn.Module], Any] | None = None
) -> Preview:
    """What `create_compressed_model` would do to `model`, layer by layer, to be printed; the model stays as it is.

    What data decide (ranges, a precision search) is named, not run. Raises as `create_compressed_model` does.

    >>> config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 4]}, "compression": {"algorithm": "magnitude_sparsity"}})
    >>> preview = preview_compression(torch.nn.Sequential(torch.nn.Linear(4, 2)), config)
    >>> preview.layers[0].name, preview.layers[0].happens
    ('Sequential/Linear[0]/linear_0', ('weight: magnitude mask, to 50% zeros over all such layers',))
    """
    with run_by_python(model):
        plain = model_in(model)
        _check_model(plain)
        return preview(TorchAdapter(), plain, config, _example(plain, config, dummy_forward_fn))


def _check_model(model: torch.nn.Module) -> None:
    """ValueError where parameters have no values yet, or modules are no Python."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{name or 'the model'}: found a ScriptModule, into which nothing can be put: expected the Python module that it "
                "was made from; script the stripped model"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name}: found a lazy parameter without shape, call the model on a batch first")
        if tensor.is_meta:
            raise ValueError(f"{name}: found a tensor on the device meta, which has no values: expected a model with its weights")


def _example(model: torch.nn.Module, config: NNCFConfig, dummy_forward_fn: Callable[[torch.nn.Module], Any] | None) -> Any:
    """Inputs to trace with, or a function that runs the model once."""
    example: Any = dummy_forward_fn or example_of(NNCFConfig.expected(config), model)
    if example is None:
        example = first_batch(config, expected_inputs(model))
    if example is None:
        raise ConfigError(
            "input_info: missing, and neither a data loader (register_default_init_args) nor dummy_forward_fn "
            "tells how to run the model"
        )
    return example
