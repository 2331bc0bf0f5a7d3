"""Ranges from data: one pass over batches of the user's, from which every quantizer sees as many samples as it wants."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from nncf_ext.adapter import Adapter, Inference, Looks
from nncf_ext.calibration.initialization import InitializationWarning, running_on_data, samples_wanted, samples_with_progress
from nncf_ext.calibration.ranges import widest
from nncf_ext.config.initialization import RangeInit
from nncf_ext.edits import Edit, Observer, ObserverSpec, Range
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Site

Batches = Callable[[], Iterable[Any]]
BatchStatistics = Callable[[], AbstractContextManager[int]]
_WHAT = "range initialisation"
_COMPARED = 32  # samples, rounded up to whole batches, on which inference is compared with training
_WIDER, _NARROWER = 2.0, 0.25  # magnitudes in training, as shares of those in inference, beyond which BatchNorm does not fit


def ranges_of(
    adapter: Adapter,
    edits: Iterable[Edit],
    starts: Mapping[str, RangeInit],
    parameter: Callable[[Site], np.ndarray],
    inference: Callable[[Looks], Inference],
    batch_statistics: BatchStatistics,
    batches: Batches | None,
) -> dict[str, Range]:
    """Ranges by edit key, for those in `starts`: weights' from their values, activations' from `batches` (none without them).

    Activations are seen in inference mode, as NNCF 2.x does, where BatchNorm's statistics fit the data. Where they do not (a
    network, a part of it, or data that is new), such ranges would cut off what training computes: they are taken with the
    statistics of each batch, with an InitializationWarning. Of several processes, all get the first one's.
    A quantizer of several tensors gets a range that holds what each of them would have by itself.
    parameter(site): a weight as its quantizer sees it. inference(sites), batch_statistics(): see `Adapter`.
    """
    edits = [edit for edit in edits if edit.key in starts]
    wanted = dict.fromkeys(starts, 0)
    if batches is not None:
        wanted = dict(zip(starts, samples_wanted(adapter, batches, list(starts.values()), _WHAT), strict=True))
    found: dict[str, list[Range]] = {}
    for edit in edits:
        for site in edit.sites:
            if site.is_parameter:
                collector = _observer(edit, site, starts[edit.key])
                collector.update(parameter(site))
                if not collector.is_empty:
                    found.setdefault(edit.key, []).append(collector.result())
    looked_at = [edit for edit in edits if wanted[edit.key] and not edit.of_parameters]
    if looked_at and batches is not None:
        for key, ranges in _of_activations(adapter, looked_at, starts, wanted, inference, batch_statistics, batches).items():
            found.setdefault(key, []).extend(ranges)
    return adapter.broadcast_from_rank0({key: widest(ranges) for key, ranges in found.items()})


def _of_activations(
    adapter: Adapter,
    edits: Iterable[Edit],
    starts: Mapping[str, RangeInit],
    wanted: Mapping[str, int],
    inference: Callable[[Looks], Inference],
    batch_statistics: BatchStatistics,
    batches: Batches,
) -> dict[str, list[Range]]:
    def collected(samples: Mapping[str, int]) -> tuple[dict[str, list[Observer]], dict[Site, float]]:
        collectors: dict[str, list[Observer]] = {}
        at_site: dict[Site, list[tuple[Observer, int]]] = {}
        for edit in edits:
            for site in edit.sites:
                if not site.is_parameter:
                    collector = _observer(edit, site, starts[edit.key])
                    collectors.setdefault(edit.key, []).append(collector)
                    at_site.setdefault(site, []).append((collector, samples[edit.key]))
        return collectors, _collect(adapter, inference, at_site, batches)

    collectors, in_inference = collected(wanted)
    with batch_statistics() as layers:
        if layers:
            _, in_training = collected({key: min(n, _COMPARED) for key, n in wanted.items()})
            apart = [site for site, size in in_training.items() if not _alike(size, in_inference.get(site, size))]
            if adapter.broadcast_from_rank0(bool(apart)):
                collectors, _ = collected(wanted)
                _warn_of_statistics(apart, in_inference, in_training)
    ranges = {key: [c.result() for c in each if not c.is_empty] for key, each in collectors.items()}
    return {key: each for key, each in ranges.items() if each}


def _alike(in_training: float, in_inference: float) -> bool:
    return _NARROWER * in_inference <= in_training <= _WIDER * in_inference


def _warn_of_statistics(apart: list[Site], in_inference: Mapping[Site, float], in_training: Mapping[Site, float]) -> None:
    if not apart:  # another process warns
        return
    worst = max(apart, key=lambda site: abs(np.log((in_training[site] + 1e-30) / (in_inference[site] + 1e-30))))
    warnings.warn(
        f"{_WHAT}: BatchNorm's statistics do not fit the data, as in a network, or a new part of one, that has not been trained: "
        f"{worst} reaches {in_training[worst]:.3g} in training and {in_inference[worst]:.3g} in inference ({len(apart)} of "
        f"{len(in_training)} tensors differ so much). Ranges are taken as training sees them; train in floating point "
        "first where that was not intended",
        InitializationWarning,
        stacklevel=2,
    )


def _collect(
    adapter: Adapter,
    inference: Callable[[Looks], Inference],
    at_site: Mapping[Site, list[tuple[Observer, int]]],
    batches: Batches,
) -> dict[Site, float]:
    """Show the collectors at each site as many samples as they want. The largest magnitudes in the first `_COMPARED` ones."""
    not_finite: list[Site] = []
    largest: dict[Site, float] = {}
    seen = 0  # samples in the batches before the present one

    def visit(site: Site, array: Any) -> None:
        values = adapter.to_numpy(array)
        if not np.isfinite(values).all():
            not_finite.append(site)
        if seen < _COMPARED:
            largest[site] = max(largest.get(site, 0.0), float(np.abs(values).max(initial=0)))
        for collector, wanted in at_site[site] if not not_finite else ():
            if seen < wanted:
                collector.update(values)

    with running_on_data(_WHAT, batches):
        run = inference({site: partial(visit, site) for site in at_site})
        for batch in samples_with_progress(adapter, batches, max(n for group in at_site.values() for _, n in group), _WHAT):
            run(batch)
            seen += adapter.data.samples(batch)
    if not_finite:
        raise ConfigError(f"{_WHAT}: {not_finite[0]} saw NaN or infinite values: check the data and the model's weights")
    if not seen:
        raise ConfigError(f"{_WHAT}: the data loader gave no batch")
    return largest


def _observer(edit: Edit, site: Site, start: RangeInit) -> Observer:
    percentiles = (start.params.min_percentile, start.params.max_percentile)
    found = edit.transform.observer(ObserverSpec(site.is_parameter, start.type, percentiles))
    assert found is not None, edit
    return found
