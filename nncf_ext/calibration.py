"""Ranges from data: one pass over batches of the user's, from which every quantizer sees as many samples as it wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nncf_ext.adapter import Adapter
from nncf_ext.config import ConfigError
from nncf_ext.config.initialization import RangeInit
from nncf_ext.edits import Edit, Range
from nncf_ext.graph import Site
from nncf_ext.initialization import running_on_data, samples_wanted, samples_with_progress
from nncf_ext.ranges import RangeCollector

Batches = Callable[[], Iterable[Any]]
Observe = Callable[[Iterable[Site], Iterable[Any], Callable[[Site, Any], None]], None]
_WHAT = "range initialisation"


def ranges_of(
    adapter: Adapter,
    edits: Iterable[Edit],
    starts: Mapping[str, RangeInit],
    parameter: Callable[[Site], np.ndarray],
    observe: Observe,
    batches: Batches | None,
) -> dict[str, Range]:
    """Ranges by edit key, for those in `starts`: weights' from their values, activations' from `batches` (none without them).

    Of several processes, all get the first one's.
    parameter(site): a weight as its quantizer sees it. observe(sites, batches, visit): see `Adapter.observe`.
    """
    edits = [edit for edit in edits if edit.key in starts]
    wanted = dict.fromkeys(starts, 0)
    if batches is not None:
        wanted = dict(zip(starts, samples_wanted(adapter, batches, list(starts.values()), _WHAT), strict=True))
    collectors: dict[str, RangeCollector] = {}
    at_site: dict[Site, list[tuple[RangeCollector, int]]] = {}
    for edit in edits:
        collector = collectors[edit.key] = _collector(edit, starts[edit.key])
        if edit.site.is_parameter:
            collector.update(edit.transform.observed(parameter(edit.site)))
        elif wanted[edit.key]:
            for site in edit.sites:
                at_site.setdefault(site, []).append((collector, wanted[edit.key]))
    if at_site and batches is not None:
        _collect(adapter, observe, at_site, batches)
    return adapter.of_first_rank({key: collector.result() for key, collector in collectors.items() if not collector.is_empty})


def _collect(
    adapter: Adapter, observe: Observe, at_site: Mapping[Site, list[tuple[RangeCollector, int]]], batches: Batches
) -> None:
    not_finite: list[Site] = []
    seen = 0  # samples in the batches before the present one

    def counted() -> Iterator[Any]:
        nonlocal seen
        for batch in samples_with_progress(adapter, batches, max(n for group in at_site.values() for _, n in group), _WHAT):
            yield batch
            seen += adapter.batch_size(batch)

    def visit(site: Site, array: Any) -> None:
        values = adapter.to_numpy(array)
        if not np.isfinite(values).all():
            not_finite.append(site)
        for collector, wanted in at_site[site] if not not_finite else ():
            if seen < wanted:
                collector.update(values)

    with running_on_data(_WHAT):
        observe(at_site, counted(), visit)
    if not_finite:
        raise ConfigError(f"{_WHAT}: {not_finite[0]} saw NaN or infinite values: check the data and the model's weights")
    if all(collector.is_empty for group in at_site.values() for collector, _ in group):
        raise ConfigError(f"{_WHAT}: the data loader gave no batch")


def _collector(edit: Edit, start: RangeInit) -> RangeCollector:
    transform: Any = edit.transform
    return RangeCollector(
        start.type,
        transform.channel_axis,
        transform.symmetric,
        edit.site.is_parameter,
        (start.params.min_percentile, start.params.max_percentile),
        transform.needs_values,
    )
