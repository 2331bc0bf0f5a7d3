"""`make_soup` for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from nncf_ext import soup
from nncf_ext.soup.blending import Masks
from nncf_ext_torch.adapter import TorchAdapter


def make_soup(
    model: torch.nn.Module,
    ingredients: Sequence[Any],
    method: str = "uniform",
    *,
    evaluate: Callable[[Any], float] | None = None,
    batches: Any = None,
    masks: Masks = "refuse",
    alpha: float = 0.5,
    loss: Callable[[Any, Any], Any] | None = None,
    data: Callable[[], Iterable[tuple[Any, Any]]] | None = None,
    by_layer: bool = False,
) -> soup.Soup:
    """Average models into `model`, which is like them (compressed with the same config, where they are); what it holds is lost.

    ingredients: at least two checkpoints, safetensors files, folders with one, or arrays by name. method: `uniform`; `greedy`,
    with evaluate(model), a score on held-out data; `learned`, with that, loss(outputs, target) and data(), the held-out batches,
    by_layer for shares per layer; `wise-ft`, (1 - alpha) * first + alpha * second.
    batches: training data as people have it (docs/data.md). With them BatchNorm statistics are estimated anew after every merge.
    masks: what to do where the ingredients' masks differ: `refuse`, `union`, `intersection`.
    Raises SoupError for models that cannot be averaged, before anything is evaluated.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> soup = make_soup(model, [{"weight": np.float32([[1]])}, {"weight": np.float32([[3]])}])
    >>> model.weight.item()
    2.0
    """
    trial = soup.Trial(TorchAdapter(), model, evaluate, batches)
    return soup.make_soup(trial, ingredients, method, masks, alpha, loss, data, by_layer)
