"""Ways to average models: uniform and greedy soups, learned ones (Wortsman et al. 2022), WiSE-FT (Wortsman et al. 2022b)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext.adapter import Adapter
from nncf_ext.checkpoint import save_checkpoint, save_tensors
from nncf_ext.data import model_inputs
from nncf_ext.soup.blending import Masks, blend
from nncf_ext.soup.ingredients import Ingredient, SoupError, check_compatible
from nncf_ext.soup.learning import Shares, Step


@dataclass(frozen=True)
class Soup:
    """A model that is the mean of others.

    tensors: by name, as in a checkpoint. state: the compression state, None for plain models. shares: of the ingredients, by
    their label; of a soup learned by layer, the mean over its layers. score: what `evaluate` says of it; scores: of the
    ingredients alone, by their label. None where nothing was evaluated.
    """

    tensors: Mapping[str, np.ndarray]
    state: Mapping[str, Any] | None
    shares: Mapping[str, float]
    score: float | None = None
    scores: Mapping[str, float] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """A checkpoint like its ingredients': with the compression state, or plain safetensors."""
        if self.state is None:
            save_tensors(Path(path), self.tensors)
        else:
            save_checkpoint(path, self.tensors, self.state)

    def __str__(self) -> str:
        lines = [f"{share:6.1%} {name}{self._scored(name)}" for name, share in self.shares.items()]
        return "\n".join(lines + ([] if self.score is None else [f"score of the soup: {self.score:.6g}"]))

    def _scored(self, name: str) -> str:
        return f" (alone: {self.scores[name]:.6g})" if self.scores else ""


@dataclass(frozen=True)
class Trial:
    """The model in which soups are tried.

    evaluate(model): a score on held-out data, the higher the better. batches: training data (see `nncf_ext.data`), on which
    BatchNorm statistics are estimated anew after every merge; None: they are averaged like weights.
    """

    adapter: Adapter
    model: Any
    evaluate: Callable[[Any], float] | None = None
    batches: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.batches, Iterator):
            raise SoupError(
                "batches: found what can be read once, expected data that every merge reads anew, or a function of it"
            )

    def expect(self, source: Ingredient) -> None:
        """SoupError where the model cannot take the ingredient's tensors."""
        shapes = {name: array.shape for name, array in self.adapter.tensors(self.model).items()}
        theirs = {name: shape for name, (shape, _) in source.specs.items()}
        for name in sorted(shapes.keys() | theirs.keys()):
            if shapes.get(name) != theirs.get(name):
                found, expected = (f"of shape {s[name]}" if name in s else "absent" for s in (shapes, theirs))
                raise SoupError(
                    f"model: {name} is {found}, expected {expected} as in {source.label} "
                    "(models that were compressed are tried in one that is compressed with the same config)"
                )

    def load(self, tensors: Mapping[str, np.ndarray], merged: bool) -> None:
        self.adapter.load_tensors(self.model, tensors)
        if merged and self.batches is not None:
            self.adapter.adapt_batchnorm(self.model, model_inputs(self.adapter.data, self.model, self.batches, "batches"))

    def score(self, what: str) -> float:
        """Of the model as it is."""
        assert self.evaluate is not None
        score = float(self.evaluate(self.model))
        if math.isnan(score):
            raise SoupError(f"evaluate gave NaN for {what}, expected a number, the higher the better")
        return score

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in self.adapter.tensors(self.model).items()}


def uniform(ingredients: Sequence[Any], masks: Masks = "refuse", trial: Trial | None = None) -> Soup:
    """The mean of all ingredients: files, folders with one, arrays by name, or soups. Each tensor of each is read once."""
    found = check_compatible(ingredients)
    return _mixed(found, [1 / len(found)] * len(found), masks, trial)


def wise_ft(ingredients: Sequence[Any], alpha: float = 0.5, masks: Masks = "refuse", trial: Trial | None = None) -> Soup:
    """(1 - alpha) * first + alpha * second: between a pretrained model and the one that was fine-tuned from it.

    0 and 1 give the ingredients bit for bit.
    """
    found = check_compatible(ingredients)
    if len(found) != 2:
        raise SoupError(f"wise-ft: found {len(found)} ingredients, expected two: the pretrained and the fine-tuned model")
    if not 0 <= alpha <= 1:
        raise SoupError(f"alpha: found {alpha}, expected between 0 and 1")
    return _mixed(found, [1 - alpha, alpha], masks, trial)


def greedy(ingredients: Sequence[Any], trial: Trial, masks: Masks = "refuse") -> Soup:
    """Beginning with the best ingredient, every next one is added if the soup's score does not fall. Never below the best one.

    The ingredients are read three times: to check them before anything is evaluated, alone, and with the soup so far. The model
    is left with the soup in it.
    """
    found = check_compatible(ingredients)
    _expect_evaluation("greedy", trial)
    trial.expect(found[0])
    blend(found, lambda name: [1 / len(found)] * len(found), masks)
    scores = []
    for source in found:
        trial.load({name: source.read(name) for name in source.specs}, False)
        scores.append(trial.score(source.label))
    order = sorted(range(len(found)), key=lambda place: -scores[place])
    chosen, best = [order[0]], scores[order[0]]
    tensors = {name: found[order[0]].read(name) for name in found[0].specs}
    for place in order[1:]:
        size = len(chosen)
        soup = Ingredient("the soup so far", found[0].specs, found[0].state, tensors.__getitem__)
        shares = [size / (size + 1), 1 / (size + 1)]
        candidate = blend([soup, found[place]], lambda name, shares=shares: shares, masks)
        trial.load(candidate, True)
        score = trial.score(f"the soup with {found[place].label}")
        if score >= best:
            best, tensors = score, candidate
            chosen.append(place)
        del candidate
    trial.load(tensors, len(chosen) > 1)
    shares = [chosen.count(place) / len(chosen) for place in range(len(found))]
    return Soup(trial.tensors(), found[order[0]].state, _by_label(found, shares), best, _by_label(found, scores))


def learned(
    ingredients: Sequence[Any],
    trial: Trial,
    loss: Callable[[Any, Any], Any],
    data: Callable[[], Iterable[tuple[Any, Any]]],
    by_layer: bool = False,
    epochs: int = 5,
) -> Soup:
    """Shares softmax(a), learned with Adam on held-out data together with a factor on the outputs (a temperature).

    loss(outputs, target): a scalar of the framework; data(): (model inputs, target), anew at every call. by_layer: shares for
    every layer. They begin at the greedy soup. The result is the best by `evaluate` of that and of the ends of the epochs, so it
    is never below the greedy one. As d loss / d share_i = <d loss / d w, w_i>, every step reads the ingredients twice.
    """
    found = check_compatible(ingredients)
    start = greedy(found, trial)
    shares = Shares(found, list(start.shares.values()), by_layer)
    best, step = start, Step()
    for epoch in range(epochs):
        for batch in data():
            trial.load(blend(found, shares.of), True)
            _, by_factor, gradients = trial.adapter.loss_gradients(trial.model, loss, batch, shares.factor)
            step(shares, by_factor, gradients)
        if not step.taken:
            raise SoupError("data: found no batch, expected held-out (inputs, target)")
        trial.load(blend(found, shares.of), True)
        score = trial.score(f"the soup learned for {epoch + 1} epochs")
        assert best.score is not None
        if score > best.score:
            best = Soup(trial.tensors(), start.state, _by_label(found, shares.mean()), score, start.scores)
    trial.load(best.tensors, False)
    return best


METHODS = ("uniform", "greedy", "learned", "wise-ft")


def make_soup(
    trial: Trial,
    ingredients: Sequence[Any],
    method: str,
    masks: Masks = "refuse",
    alpha: float = 0.5,
    loss: Callable[[Any, Any], Any] | None = None,
    data: Callable[[], Iterable[tuple[Any, Any]]] | None = None,
    by_layer: bool = False,
) -> Soup:
    """The soup by `method`, which the model holds afterwards."""
    if method not in METHODS:
        from nncf_ext.errors import choose

        raise SoupError(f"method: found {method!r}, {choose(method, METHODS)}")
    if method == "learned":
        if loss is None or data is None:
            raise SoupError("learned: expected loss(outputs, target) and data(), the held-out batches")
        if masks != "refuse":
            raise SoupError(
                f"masks: found {masks!r}, expected 'refuse': the shares of a learned soup are of models with one mask"
            )
        return learned(ingredients, trial, loss, data, by_layer)
    if method == "greedy":
        return greedy(ingredients, trial, masks)
    return wise_ft(ingredients, alpha, masks, trial) if method == "wise-ft" else uniform(ingredients, masks, trial)


def _mixed(found: Sequence[Ingredient], shares: Sequence[float], masks: Masks, trial: Trial | None) -> Soup:
    if trial is not None:
        trial.expect(found[0])
    tensors = blend(found, lambda name: shares, masks)
    state = next(source.state for source, share in zip(found, shares, strict=True) if share)
    score = None
    if trial is not None:
        trial.load(tensors, max(shares) < 1)
        tensors = trial.tensors()
        score = None if trial.evaluate is None else trial.score("the soup")
    return Soup(tensors, state, _by_label(found, shares), score)


def _expect_evaluation(method: str, trial: Trial) -> None:
    if trial.evaluate is None:
        raise SoupError(f"{method}: expected evaluate(model), a score on held-out data, the higher the better")


def _by_label(found: Sequence[Ingredient], values: Iterable[float]) -> dict[str, float]:
    """Labels that occur twice (one file given twice) get a number."""
    labels: dict[str, float] = {}
    for source, value in zip(found, values, strict=True):
        label, number = source.label, 2
        while label in labels:
            label, number = f"{source.label} ({number})", number + 1
        labels[label] = value
    return labels
