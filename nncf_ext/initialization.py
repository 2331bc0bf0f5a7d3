"""The data that a config may carry (NNCF 2.x's "extra structs"): what ranges and BatchNorm statistics are initialised from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nncf_ext.config import NNCFConfig


@dataclass(frozen=True)
class QuantizationRangeInitArgs:
    """Batches for range initialisation, as model inputs; `batches()` starts anew at every call."""

    batches: Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class BNAdaptationInitArgs:
    """Batches for BatchNorm adaptation, as model inputs; `batches()` starts anew at every call."""

    batches: Callable[[], Iterable[Any]]


def register_loader(config: NNCFConfig, batches: Callable[[], Iterable[Any]]) -> NNCFConfig:
    """Use `batches` for every initialisation that needs data."""
    config.register_extra_structs([QuantizationRangeInitArgs(batches), BNAdaptationInitArgs(batches)])
    return config


def registered_batches(config: NNCFConfig, kind: type) -> Callable[[], Iterable[Any]] | None:
    """What was registered for `kind`, or None."""
    return config.get_extra_struct(kind).batches if config.has_extra_struct(kind) else None


def take_samples(batches: Iterable[Any], wanted: int, size_of: Callable[[Any], int]) -> Iterator[Any]:
    """Batches until they hold `wanted` samples."""
    seen = 0
    for batch in batches:
        if seen >= wanted:
            return
        seen += size_of(batch)
        yield batch
