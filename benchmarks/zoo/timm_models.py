"""One model of each family (module) of timm: the smallest by the numbers in its weights. Random weights, small inputs."""

from __future__ import annotations

import timm
import torch

from benchmarks.zoo.torch_subject import TorchSubject

_SMALL = (
    "test_",
    "femto",
    "atto",
    "pico",
    "nano",
    "tiny",
    "_xxs",
    "xxsmall",
    "_xs",
    "_s",
    "small",
    "_t",
    "18",
    "_m0",
    "050",
    "b0",
)


def _smallest(module: str) -> tuple[int, str] | None:
    """(numbers in its weights, name)."""
    names = timm.list_models(module=module)
    marked = [name for mark in _SMALL for name in names if mark in name]
    sizes = {}
    for name in list(dict.fromkeys([*marked[:3], *sorted(names, key=len)[:2]])):
        with torch.device("meta"):
            try:
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
            except (RuntimeError, NotImplementedError):  # what cannot be made without memory
                continue
    return min(((size, name) for name, size in sizes.items()), default=None)


def _names() -> list[str]:
    """The small ones first."""
    return [name for _, name in sorted(found for found in map(_smallest, timm.list_modules()) if found is not None)]


class _Names:
    """Found when they are asked for: that takes a minute."""

    def __iter__(self):
        return iter(_names())


NAMES = _Names()


def subject(name: str) -> TorchSubject:
    torch.manual_seed(0)
    for size in (96, None):
        model = timm.create_model(name, num_classes=10)
        channels, *own = model.default_cfg["input_size"]
        fixed = size is None or model.default_cfg.get("fixed_input_size", False)
        images = torch.rand(2, channels, *(own if fixed else (size, size)))
        try:
            with torch.no_grad():
                model.eval()(images)
            model.train()(images)
        except (RuntimeError, AssertionError, ValueError):  # too small for it
            if size is None:
                raise
            continue
        return TorchSubject(model, (images,))
    raise AssertionError(name)
