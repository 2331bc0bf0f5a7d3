"""What searches by trial have in common: the user's score, a part of the data, a sampler that learns what scores well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nncf_ext.calibration.initialization import AutoQPrecisionInitArgs
from nncf_ext.errors import ConfigError

if TYPE_CHECKING:
    from nncf_ext.algorithm import PlanningContext


def scorer(context: PlanningContext, share: float, json_path: str, what: str) -> Callable[[Any], float]:
    """The registered autoq_eval_fn as a function of the model, on the first `share` of its loader's batches.

    The first rank's score counts: all processes take the same way. ConfigError at `json_path` where none is registered for
    `what`, or where it gives NaN.
    """
    user: AutoQPrecisionInitArgs | None = context.extra(AutoQPrecisionInitArgs)
    if user is None:
        raise ConfigError(f"{json_path}: {what} needs a score: give register_default_init_args an autoq_eval_fn")
    loader = first_part(user.loader, share)

    def score(model: Any) -> float:
        value = context.adapter.broadcast_from_rank0(float(user.eval_fn(model, loader)))
        if math.isnan(value):
            raise ConfigError(f"{json_path}: autoq_eval_fn returned NaN, expected a score")
        return value

    return score


def search(
    reward: Callable[[Mapping[str, Any]], float],
    options: Mapping[str, Sequence[Any]],
    start: Mapping[str, Any],
    rounds: Iterable[Any],
    warm_up: int,
    seed: int = 0,
) -> None:
    """Ask for the reward of a proposal in each of `rounds`: `start`, `warm_up` random ones, then promising ones.

    A proposal has one of its options, which are in order, for each key. The sampler is a tree-structured Parzen estimator
    (Bergstra et al. 2011).
    """
    import optuna

    with _quiet(optuna.logging):
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=warm_up + 1, seed=seed)
        )
        study.enqueue_trial({key: choice.index(start[key]) for key, choice in options.items()})
        for _ in rounds:
            trial = study.ask()
            chosen = {key: choice[trial.suggest_int(key, 0, len(choice) - 1)] for key, choice in options.items()}
            study.tell(trial, reward(chosen))


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def first_part(loader: Any, share: float) -> Any:
    """The loader, cut down to the first `share` of its batches, rounded up."""
    return loader if share == 1 else _FirstBatches(loader, math.ceil(share * len(loader)))


class _FirstBatches:
    """The first batches of a loader, which has all other attributes of that loader."""

    def __init__(self, loader: Any, count: int):
        self._loader, self._count = loader, count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._loader), self._count)

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
