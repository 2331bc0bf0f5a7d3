"""Every file in `configs/` but those for transformers compresses the demo's network, and one optimizer step of it trains."""

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.demo import DigitsNet

from nncf_ext import NNCFConfig
from nncf_ext.tools import demo
from tests.configs import FOR_IMAGES, shortened


@pytest.fixture(scope="module")
def batches():
    data = demo.load_digits()
    images, labels = torch.from_numpy(data.train_images[:64, None]), torch.from_numpy(data.train_labels[:64])
    return [(images[:32], labels[:32]), (images[32:], labels[32:])]


def no_steps(loader, model, optimizer, controller, steps):
    """For configs that search: a search is tested elsewhere."""


def no_loss(model, loader):
    return 0.0, 0.0


def accuracy(model: torch.nn.Module, loader: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    return float(sum((model.eval()(x).argmax(1) == y).float().mean() for x, y in loader)) / len(loader)


@pytest.mark.filterwarnings("ignore:.* has not reached its target:UserWarning")  # after one step
@pytest.mark.parametrize("file", FOR_IMAGES)
def test_config_runs(file, batches):
    torch.manual_seed(0)
    config = shortened(NNCFConfig.from_json(file))
    register_default_init_args(
        config,
        batches,
        torch.nn.CrossEntropyLoss(),
        train_steps_fn=no_steps,
        validate_fn=no_loss,
        val_loader=batches,
        autoq_eval_fn=accuracy,
    )
    ctrl, model = create_compressed_model(DigitsNet(), config)
    assert len(ctrl.plan) > 0
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    coded = {name for edit in ctrl.plan if "codes" in ctrl.variable_values(edit) for name in ctrl._attached.parameter_names(edit)}
    weights = [parameter for name, parameter in model.named_parameters() if parameter.numel() > 1 and name not in coded]
    before = [weight.detach().clone() for weight in weights]

    model.train()
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()
    x, y = batches[0]
    loss = ctrl.total_loss(torch.nn.functional.cross_entropy(model(x), y))
    loss.backward()
    optimizer.step()

    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert all((a != b).any() for a, b in zip(weights, before, strict=True)), "a weight did not move"
    assert all(
        algorithm.algorithm in str(ctrl.statistics()) for algorithm in config.algorithms() if ctrl.plan.of(algorithm.algorithm)
    )
    model.eval()
    with torch.no_grad():
        assert torch.isfinite(ctrl.strip()(x)).all()
