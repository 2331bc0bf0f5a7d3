"""Ranges of a network whose BatchNorm statistics do not fit the data yet, and what is said where data are missing."""

import copy
import warnings

import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from nncf_ext_torch.demo import DigitsNet, accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nncf_ext import ConfigError, InitializationWarning, NNCFConfig
from nncf_ext.tools import demo

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(depth: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(8 if index else 3, 8, 3, padding=1, bias=False)
        with torch.no_grad():
            conv.weight.mul_(0.3)
        layers += [conv, nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def config(**initializer: object) -> NNCFConfig:
    entry = {"algorithm": "quantization", **({"initializer": initializer} if initializer else {})}
    return NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": entry})


def first_scales(model: nn.Module, **initializer: object) -> dict[str, float]:
    """Scales of what the ReLUs give, by the ReLU's name."""
    ctrl, _ = create_compressed_model(model, register_default_init_args(config(**initializer), [X]))
    relus = [edit for edit in ctrl.plan if "relu" in edit.site.node]
    return {edit.site.node: float(ctrl.variable_values(edit)["scale"].item()) for edit in relus}


def relu_maxima(model: nn.Sequential) -> list[float]:
    """Of what each ReLU gives in the mode that the model is in: the mean over samples of the largest value."""
    found, x = [], X
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(float(x.flatten(1).amax(1).mean()))
    return found


NO_ADAPTATION = {"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}


def test_ranges_of_an_untrained_network_are_those_of_its_training() -> None:
    model = net()
    expected, statistics = relu_maxima(copy.deepcopy(model).train()), copy.deepcopy(dict(model.named_buffers()))
    with pytest.warns(InitializationWarning, match=r"BatchNorm's statistics do not fit the data.*\(7 of 8 tensors"):
        scales = first_scales(model, **NO_ADAPTATION)
    assert list(scales.values()) == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(model.get_buffer(name), value) for name, value in statistics.items())
    assert all(layer.training for layer in model.modules())


def test_its_first_gradient_is_that_of_the_float_network() -> None:
    norms = []
    for compress in (False, True):
        model = net(12)
        if compress:
            create_compressed_model(model, register_default_init_args(config(), [X]))
        model.train()
        nn.functional.cross_entropy(model(X), torch.arange(16) % 4).backward()
        norms.append(float(next(p for p in model.parameters() if p.ndim == 4).grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.3)


def test_ranges_of_a_trained_network_are_those_of_inference() -> None:
    model = net().train()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.9
        for _ in range(8):
            model(X)
    expected = relu_maxima(copy.deepcopy(model).eval())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(first_scales(model).values()) == pytest.approx(expected, rel=1e-5)


def test_layers_that_training_leaves_alone_are_in_inference() -> None:
    model = net().train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    expected = relu_maxima(copy.deepcopy(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scales = first_scales(model, **NO_ADAPTATION)
    assert list(scales.values()) == pytest.approx([max(value, 1e-6) for value in expected], rel=1e-5)


def test_one_value_per_channel_has_no_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    create_compressed_model(model, register_default_init_args(config(**NO_ADAPTATION), [X[:1], X[1:2]]))


@pytest.mark.parametrize(
    "initializer, found",
    [
        ({"range": {"num_init_samples": 10}}, "initializer.range: found no data to run 10 samples of for /nncf_model_input_0"),
        ({"range": {"type": "min_max"}}, "initializer.range: found no data to run 256 samples"),
        ({"batchnorm_adaptation": {"num_bn_adaptation_samples": 10}}, "batchnorm_adaptation: found no data to run 10 samples"),
    ],
)
def test_data_that_a_config_asks_for_have_to_be_registered(initializer: dict, found: str) -> None:
    model = net(1)
    with pytest.raises(ConfigError, match=f"compression.*{found}.*register_default_init_args"):
        create_compressed_model(model, config(**initializer))
    ctrl, _ = create_compressed_model(model, register_default_init_args(config(**initializer), [X]))
    state = ctrl.get_compression_state()
    create_compressed_model(net(1), config(**initializer), compression_state=state)  # resumed: values come with the weights


def test_ranges_that_start_without_data_are_told_once() -> None:
    with pytest.warns(
        InitializationWarning, match="compression: no data are registered, so the ranges of 3 activations"
    ) as found:
        create_compressed_model(net(1), config())
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_compressed_model(net(1), config(range={"num_init_samples": 0}, **NO_ADAPTATION))
        weights_only = {"algorithm": "quantization", "activations": {"ignored_scopes": ["{re}.*"]}}
        create_compressed_model(
            net(1), NNCFConfig.from_dict({"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": weights_only})
        )


@pytest.mark.slow
def test_int8_from_scratch_trains_as_well_as_float() -> None:
    """Within one point on the digits, for two networks that have never been trained in floating point."""
    data = demo.load_digits()
    images, labels = torch.from_numpy(data.train_images[:, None]), torch.from_numpy(data.train_labels)
    test = torch.from_numpy(data.test_images[:, None]), torch.from_numpy(data.test_labels)
    reached: dict[bool, list[float]] = {False: [], True: []}
    for seed in (0, 1):
        for compress in (False, True):
            torch.manual_seed(seed)
            model, epochs = DigitsNet((16, 16, 32, 32)), 10
            batches = DataLoader(TensorDataset(images, labels), 64, True, generator=torch.Generator().manual_seed(seed))
            if compress:
                given = NNCFConfig.from_dict({"compression": {"algorithm": "quantization"}})
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", InitializationWarning)
                    create_compressed_model(model, register_default_init_args(given, batches))
            optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
            for _ in range(epochs):
                model.train()
                for x, y in batches:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
                schedule.step()
            reached[compress].append(accuracy(model, *test))
    assert min(reached[False]) > 0.95
    assert sum(reached[True]) / 2 > sum(reached[False]) / 2 - 0.01, reached
