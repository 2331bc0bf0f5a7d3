"""The shares of a learned soup and the steps that move them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from nncf_ext.soup.ingredients import Ingredient

RATE, BETAS, EPSILON = 0.05, (0.9, 0.999), 1e-8  # of Adam; the reference's AdamW has no weight decay
_SPREAD = 0.1  # of the first shares, evenly over all ingredients: a share of 0 would never move


class Shares:
    """softmax(raw), a row per layer or one for all; and the factor on the outputs."""

    def __init__(self, ingredients: Sequence[Ingredient], start: Sequence[float], by_layer: bool):
        self.ingredients = ingredients
        layers = sorted({layer_of(name) for name in ingredients[0].specs}) if by_layer else [""]
        self._row = {layer: row for row, layer in enumerate(layers)}
        self._by_layer = by_layer
        first = (1 - _SPREAD) * np.asarray(start, np.float64) + _SPREAD / len(ingredients)
        self.raw = np.tile(np.log(first), (len(layers), 1))
        self.factor = 1.0

    def of(self, name: str) -> list[float]:
        """Shares of the ingredients in a tensor."""
        return self._softmax()[self._row_of(name)].tolist()

    def mean(self) -> list[float]:
        return self._softmax().mean(0).tolist()

    def gradient(self, gradients: Mapping[str, np.ndarray]) -> np.ndarray:
        """By `raw`, from those by the mixed tensors: draw_i = s_i * (g_i - sum_j s_j g_j) with g_i = sum <gradient, tensor_i>."""
        slopes = np.zeros_like(self.raw)
        for name, gradient in gradients.items():
            flat = gradient.reshape(-1).astype(np.float64)
            for place, source in enumerate(self.ingredients):
                slopes[self._row_of(name), place] += flat @ source.read(name).reshape(-1).astype(np.float64)
        shares = self._softmax()
        return shares * (slopes - (shares * slopes).sum(1, keepdims=True))

    def _row_of(self, name: str) -> int:
        return self._row[layer_of(name) if self._by_layer else ""]

    def _softmax(self) -> np.ndarray:
        powers = np.exp(self.raw - self.raw.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


class Step:
    """Adam (Kingma & Ba 2015) on raw shares and factor."""

    def __init__(self) -> None:
        self.taken = 0
        self._first = self._second = np.float64(0)

    def __call__(self, shares: Shares, by_factor: float, gradients: Mapping[str, np.ndarray]) -> None:
        gradient = np.append(shares.gradient(gradients), by_factor)
        self.taken += 1
        self._first = BETAS[0] * self._first + (1 - BETAS[0]) * gradient
        self._second = BETAS[1] * self._second + (1 - BETAS[1]) * gradient**2
        first, second = (m / (1 - b**self.taken) for m, b in zip((self._first, self._second), BETAS, strict=True))
        change = RATE * first / (np.sqrt(second) + EPSILON)
        shares.raw -= change[:-1].reshape(shares.raw.shape)
        shares.factor -= float(change[-1])


def layer_of(name: str) -> str:
    """`blocks.0.conv1.weight` -> `blocks.0.conv1`, `dense/kernel` -> `dense`."""
    return re.split(r"[./][^./]*$", name)[0]
